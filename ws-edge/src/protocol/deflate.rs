//! Compressed messages of a WebSocket (RFC 7692), each compressed by itself: nothing is remembered from one to the next.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::compressed_text_frame;

/// The shortest text that is compressed. A shorter one costs about as much time as one of this length, and saves less than
/// 200 bytes in a packet that is sent anyway.
pub(crate) const MIN_BYTES: usize = 512;
/// What every compressed message would end with; it is left out.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// The first byte of a stored block that is not the last.
const STORED: u8 = 0;
/// The longest stored block.
const MAX_STORED_BYTES: usize = 0xffff;
/// Output that a compressor keeps room for.
const KEPT_CAPACITY: usize = 64 << 10;

/// A compressor: about 300 KiB, so there is one for each thread that compresses, and none for a session.
struct Compressor {
    state: Compress,
    output: Vec<u8>,
}

thread_local! {
    static COMPRESSOR: RefCell<Compressor> = RefCell::new(Compressor {
        // The lowest level: the next one takes about half as long again, and saves 5 % more.
        state: Compress::new(Compression::fast(), false),
        output: Vec::new(),
    });
}

/// This text compressed, to follow other blocks of a message or to be the whole; `None` if that is not shorter.
pub(crate) fn compressed(text: &[u8]) -> Option<Bytes> {
    COMPRESSOR.with_borrow_mut(|Compressor { state, output }| {
        state.reset();
        output.clear();
        output.reserve(text.len());
        // What does not fit is not shorter.
        let outcome = state.compress_vec(text, output, FlushCompress::Sync);
        let is_all =
            outcome.is_ok() && state.total_in() == text.len() as u64 && output.len() < output.capacity();
        let blocks = output.strip_suffix(&TAIL).filter(|blocks| is_all && blocks.len() < text.len());
        let blocks = blocks.map(Bytes::copy_from_slice);
        output.clear();
        output.shrink_to(KEPT_CAPACITY);
        blocks
    })
}

/// A text frame with a text that begins with `head` and goes on with what [`compressed`] returned.
///
/// The head is not compressed: it goes into stored blocks (RFC 1951, 3.2.4), after which the others may stand as they are.
/// So a text that ends like others is compressed at the cost of a copy.
pub(crate) fn compressed_frame(head: &[u8], rest: &[u8]) -> Bytes {
    let headers: Vec<[u8; 5]> = head
        .chunks(MAX_STORED_BYTES)
        .map(|chunk| {
            let [low, high] = u16::try_from(chunk.len()).unwrap_or(u16::MAX).to_le_bytes();
            [STORED, low, high, !low, !high]
        })
        .collect();
    let blocks = headers.iter().zip(head.chunks(MAX_STORED_BYTES));
    let parts: Vec<&[u8]> =
        blocks.flat_map(|(header, chunk)| [header.as_slice(), chunk]).chain([rest]).collect();
    compressed_text_frame(&parts)
}

/// Why a compressed message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It has more than the allowed bytes.
    TooLong,
    /// It is not what RFC 7692 says.
    Malformed,
}

/// The content of a message with this payload, at most `max` bytes: what is longer is not decompressed to its end.
///
/// # Errors
/// See [`Unreadable`].
pub fn decompress(payload: &[u8], max: usize) -> Result<Vec<u8>, Unreadable> {
    let mut state = Decompress::new(false);
    // With room for one byte more than allowed, which shows that there is one.
    let most = max.saturating_add(1);
    // Requests become half as long, mostly.
    let mut content =
        Vec::with_capacity(payload.len().saturating_mul(3).clamp(MIN_BYTES, most.max(MIN_BYTES)));
    for (mut rest, is_tail) in [(payload, false), (&TAIL[..], true)] {
        loop {
            if content.len() == content.capacity() {
                content.reserve_exact(content.len().min(most - content.len()));
            }
            let (taken, made) = (state.total_in(), content.len());
            let status = state
                .decompress_vec(rest, &mut content, FlushDecompress::Sync)
                .map_err(|_| Unreadable::Malformed)?;
            let taken = usize::try_from(state.total_in() - taken).unwrap_or(usize::MAX);
            rest = rest.get(taken..).unwrap_or_default();
            if content.len() > max {
                return Err(Unreadable::TooLong);
            }
            let is_full = content.len() == content.capacity();
            if status == Status::StreamEnd {
                // A client may mark its last block as such; an empty one, of a byte and the tail, may follow.
                let is_end = !is_tail && matches!(rest, [] | [0]);
                return if is_end { Ok(content) } else { Err(Unreadable::Malformed) };
            }
            if rest.is_empty() && !is_full {
                break;
            }
            if taken == 0 && made == content.len() && !is_full {
                return Err(Unreadable::Malformed);
            }
        }
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text of a compressed frame, and how many bytes its payload has.
    fn text_of(frame: &[u8]) -> (Vec<u8>, usize) {
        assert_eq!(frame[0], 0xc1, "a final text frame that is compressed");
        let payload = match frame[1] {
            126 => &frame[4..],
            127 => &frame[10..],
            length => {
                assert_eq!(usize::from(length), frame.len() - 2);
                &frame[2..]
            }
        };
        (decompress(payload, 1 << 24).unwrap(), payload.len())
    }

    fn compressed_by_a_client(content: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut output = Vec::with_capacity(content.len() + 100);
        Compress::new(Compression::best(), false).compress_vec(content, &mut output, flush).unwrap();
        output.strip_suffix(&TAIL).map(<[u8]>::to_vec).unwrap_or(output)
    }

    #[test]
    fn the_examples_of_the_standard_are_read() {
        for payload in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            // A block without compression.
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            // A last block, and an empty one after it.
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            // Two blocks.
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(decompress(payload, 5).as_deref(), Ok(&b"Hello"[..]), "{payload:x?}");
            assert_eq!(decompress(payload, 4), Err(Unreadable::TooLong), "{payload:x?}");
        }
        assert_eq!(decompress(&[0x00], 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn what_is_not_compressed_is_malformed() {
        let mut after_the_end = compressed_by_a_client(b"an end", FlushCompress::Finish);
        after_the_end.extend(compressed_by_a_client(b"and more", FlushCompress::Finish));
        for payload in [&b"\xff\xff"[..], b"Hello", b"{\"action\":\"ping\"}", &after_the_end] {
            assert_eq!(decompress(payload, 1000), Err(Unreadable::Malformed), "{payload:x?}");
        }
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = compressed_by_a_client(&vec![0; 10 << 20], FlushCompress::Sync);
        assert!(bomb.len() < 16 << 10);
        for max in [0, 1, 511, 512, 513, 64 << 10, (10 << 20) - 1] {
            assert_eq!(decompress(&bomb, max), Err(Unreadable::TooLong), "{max}");
        }
        assert_eq!(decompress(&bomb, 10 << 20).map(|content| content.len()), Ok(10 << 20));
    }

    #[test]
    fn what_would_not_be_shorter_is_not_compressed() {
        assert_eq!(compressed(b"x"), None);
        let mut state = 1_u32;
        let mut noise = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        assert_eq!(compressed(&(0..5000).map(&mut noise).collect::<Vec<u8>>()), None);
        // The same compressor goes on with others.
        let text = "one and the same ".repeat(100);
        let (read, bytes) = text_of(&compressed_frame(b"", &compressed(text.as_bytes()).unwrap()));
        assert!(read == text.as_bytes() && bytes < 60, "{bytes}");
    }

    proptest! {
        /// Whatever was compressed before, a frame is read alone, and is shorter.
        #[test]
        fn frames_are_read_alone(texts in prop::collection::vec("([a-d\"{é]{1,9} ?){0,300}", 1..4)) {
            for text in texts {
                if let Some(blocks) = compressed(text.as_bytes()) {
                    let (read, bytes) = text_of(&compressed_frame(b"", &blocks));
                    prop_assert_eq!(read, text.as_bytes());
                    prop_assert!(bytes < text.len());
                }
            }
        }

        /// One text ends many.
        #[test]
        fn heads_stand_before_what_was_compressed(
            heads in prop::collection::vec("([a-d\"{é]{1,9} ?){0,30}", 1..4),
            times in prop::sample::select(vec![1_usize, 500, 5000]),
        ) {
            let text = "an end of many ".repeat(50);
            let blocks = compressed(text.as_bytes()).unwrap();
            for head in heads {
                let head = head.repeat(times);
                let (read, _) = text_of(&compressed_frame(head.as_bytes(), &blocks));
                prop_assert_eq!(String::from_utf8(read), Ok(head + &text));
            }
        }

        /// The limit counts what is decompressed, to the byte.
        #[test]
        fn what_a_client_compressed_is_read(content in prop::collection::vec(0..4_u8, 0..3000), ends in any::<bool>()) {
            let flush = if ends { FlushCompress::Finish } else { FlushCompress::Sync };
            let payload = compressed_by_a_client(&content, flush);
            prop_assert_eq!(decompress(&payload, content.len()), Ok(content.clone()));
            if let Some(less) = content.len().checked_sub(1) {
                prop_assert_eq!(decompress(&payload, less), Err(Unreadable::TooLong));
            }
        }
    }
}
