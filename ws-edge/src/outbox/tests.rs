use std::io::{self, ErrorKind, IoSlice};

use super::{frame::SharedText, *};
use crate::protocol::frame::text_frame;

/// A socket that keeps what it is given, as much as it may.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    bytes: Mutex<Vec<u8>>,
    room: Mutex<Option<usize>>,
}

impl Kept {
    /// What it was given since it was last asked.
    pub(crate) fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.bytes.lock())
    }

    /// Takes this many bytes more.
    pub(crate) fn allow(&self, bytes: usize) {
        *self.room.lock() = Some(bytes);
    }
}

impl OutboundSocket for Kept {
    fn try_write(&self, frames: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut room = self.room.lock();
        let all: usize = frames.iter().map(|frame| frame.len()).sum();
        let most = room.map_or(all, |room| room.min(all));
        if most == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        if let Some(room) = &mut *room {
            *room -= most;
        }
        self.bytes.lock().extend(frames.iter().flat_map(|frame| frame.iter().copied()).take(most));
        Ok(most)
    }
}

/// An outbox and what went through it.
pub(crate) fn outbox(number: SessionNumber, max_bytes: usize) -> (Arc<Outbox>, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let socket: Arc<dyn OutboundSocket> = Arc::clone(&kept) as _;
    (Arc::new(Outbox::new(number, max_bytes, socket, Arc::default())), kept)
}

fn push(outbox: &Outbox, sequence: u64, frame: &'static str) -> Pushed {
    outbox.push_live(Some(sequence), || Some(Bytes::from_static(frame.as_bytes()).into()))
}

fn replayed(outbox: &Outbox, replay: crate::ids::ReplayId, sequence: u64, frame: &'static str) -> Pushed {
    outbox.push_replayed(replay, sequence, || Some(Bytes::from_static(frame.as_bytes()).into()))
}

#[test]
fn frames_come_out_in_order_and_the_first_asks_for_a_flush() {
    let (outbox, kept) = outbox(1, 10);
    assert_eq!(push(&outbox, 1, "a"), Pushed::First);
    assert_eq!(push(&outbox, 2, "b"), Pushed::Queued);
    assert_eq!(outbox.flush(), Flushed::Empty);
    assert_eq!(kept.take(), b"ab");
    assert_eq!(push(&outbox, 3, "c"), Pushed::First);
}

#[test]
fn a_socket_that_takes_a_part_gets_the_rest_later() {
    let (outbox, kept) = outbox(1, 100);
    kept.allow(4);
    push(&outbox, 1, "abc");
    push(&outbox, 2, "def");
    assert_eq!(outbox.flush(), Flushed::Blocked);
    assert!(outbox.is_blocked() && kept.take() == b"abcd");
    assert_eq!(push(&outbox, 3, "g"), Pushed::Queued, "the session's task will flush");
    kept.allow(100);
    assert_eq!(outbox.flush(), Flushed::Empty);
    assert!(!outbox.is_blocked() && kept.take() == b"efg");
}

#[test]
fn a_single_large_frame_fits_and_the_next_makes_the_session_lag() {
    let (outbox, kept) = outbox(1, 5);
    kept.allow(0);
    push(&outbox, 7, "a large frame");
    assert_eq!(push(&outbox, 8, "b"), Pushed::Lagging);
    assert_eq!(outbox.lagging(), Some(Lag { after: 7, stage: Stage::Waiting }));
    assert_eq!(push(&outbox, 9, "c"), Pushed::Lagging);
    assert_eq!(outbox.join_replay(1), None, "not before it has read what waits");
    kept.allow(100);
    assert_eq!(outbox.flush(), Flushed::Lagging);
    assert_eq!(outbox.join_replay(1), Some(7));
    assert_eq!(replayed(&outbox, 1, 8, "b"), Pushed::First);
    outbox.go_live(1, 0);
    assert_eq!(outbox.lagging(), None);
    assert_eq!(push(&outbox, 10, "d"), Pushed::Queued);
    outbox.flush();
    assert_eq!(kept.take(), b"a large framebd");
}

#[test]
fn without_a_history_a_session_that_is_too_slow_is_closed() {
    let (outbox, kept) = outbox(1, 5);
    kept.allow(0);
    outbox.push_live(None, || Some(Bytes::from_static(b"12345").into()));
    assert_eq!(outbox.push_live(None, || Some(Bytes::from_static(b"6").into())), Pushed::Ended);
    assert_eq!(outbox.closing(), Some(Close::TooSlow));
}

#[test]
fn a_replay_leaves_a_full_session_where_it_stands() {
    let (outbox, kept) = outbox(1, 5);
    outbox.hold(3, 100);
    assert_eq!(outbox.join_replay(1), None, "it is held");
    outbox.release();
    assert_eq!(outbox.join_replay(1), Some(3));
    kept.allow(0);
    assert_eq!(replayed(&outbox, 1, 4, "abcde"), Pushed::First);
    assert_eq!(replayed(&outbox, 1, 9, "f"), Pushed::Lagging);
    assert_eq!(outbox.lagging(), Some(Lag { after: 8, stage: Stage::Waiting }));
    assert_eq!(replayed(&outbox, 1, 9, "f"), Pushed::Lagging, "it is no longer in that replay");
    outbox.advance(1, 50);
    outbox.go_live(1, 0);
    assert_eq!(outbox.lagging(), Some(Lag { after: 8, stage: Stage::Waiting }));
}

#[test]
fn a_session_that_resumes_twice_is_owed_from_the_older_position() {
    let (outbox, _) = outbox(1, 5);
    outbox.add_subject(1);
    assert_eq!(outbox.hold(5, 100), Some(100), "live: it had everything");
    assert_eq!(outbox.hold(9, 200), Some(5));
    assert_eq!(outbox.hold(2, 200), Some(5));
    outbox.release();
    assert_eq!(outbox.lagging(), Some(Lag { after: 2, stage: Stage::Waiting }));
}

#[test]
fn a_stream_that_comes_back_shorter_while_a_session_is_held_gives_its_positions_anew() {
    let (outbox, _) = outbox(1, 5);
    outbox.add_subject(1);
    outbox.hold(5, 100);
    outbox.truncate(20);
    outbox.forgo_past(60);
    assert_eq!(outbox.lagging().map(|lag| lag.after), Some(20));
}

#[test]
fn what_is_held_back_comes_after_the_first_frame() {
    let (outbox, kept) = outbox(1, 100);
    outbox.hold_back();
    assert_eq!(push(&outbox, 1, "a"), Pushed::Queued, "nobody else flushes it");
    outbox.open(|is_empty| {
        assert!(!is_empty);
        Bytes::from_static(b"first ")
    });
    outbox.flush();
    assert_eq!(kept.take(), b"first a");
    assert_eq!(push(&outbox, 2, "b"), Pushed::First);
}

#[test]
fn a_session_that_lags_before_it_is_open_is_replayed_once_it_is() {
    let (outbox, kept) = outbox(1, 5);
    outbox.hold_back();
    push(&outbox, 7, "12345");
    assert_eq!(push(&outbox, 8, "6"), Pushed::Lagging);
    outbox.open(|_| Bytes::from_static(b"first "));
    assert_eq!(outbox.flush(), Flushed::Lagging);
    assert_eq!(kept.take(), b"first 12345");
    assert_eq!(outbox.join_replay(1), Some(7));
}

#[test]
fn a_position_counts_only_before_events_that_come_after_it() {
    let (outbox, kept) = outbox(1, 100);
    let at = |position| {
        outbox.push_own_at(position, |is_at| Bytes::from_static(if is_at { b"+" } else { b"-" }));
        outbox.flush();
        kept.take()
    };
    assert_eq!(at(3), b"+");
    push(&outbox, 4, "a");
    assert_eq!((at(3), at(4)), (b"a-".to_vec(), b"+".to_vec()));
}

#[test]
fn an_ended_outbox_takes_nothing_more() {
    let (outbox, kept) = outbox(1, 100);
    push(&outbox, 1, "abc");
    push(&outbox, 2, "def");
    outbox.end(false);
    assert_eq!(push(&outbox, 3, "g"), Pushed::Ended);
    outbox.flush();
    assert_eq!(kept.take(), b"abc");
}

#[test]
fn a_session_that_is_about_to_be_closed_gets_nothing_after_its_gap() {
    let (outbox, kept) = outbox(1, 100);
    push(&outbox, 1, "abc");
    outbox.close(Close::Behind);
    assert_eq!(push(&outbox, 3, "g"), Pushed::Ended);
    outbox.flush();
    assert_eq!(kept.take(), b"abc");
}

/// A text frame of 1004 bytes that compresses to less than 100, and its text.
fn compressible() -> (Frame, String) {
    let text = "compress ".repeat(111) + "!";
    (frame(text.clone()), text)
}

/// A frame that is to be compressed.
fn frame(text: impl Into<Bytes>) -> Frame {
    Frame::compressible(Vec::new(), &Arc::new(SharedText::new(text.into())))
}

/// The outbox of a session whose events are compressed, and what went through it.
fn compressing(number: SessionNumber, max_bytes: usize) -> (Outbox, Arc<Kept>) {
    let kept = Arc::new(Kept::default());
    let outbox = Outbox::new(number, max_bytes, Arc::clone(&kept) as _, Arc::default());
    (outbox.compressed(true), kept)
}

/// The text of a compressed frame.
fn decompressed(frame: &[u8]) -> Vec<u8> {
    assert_eq!((frame[0], usize::from(frame[1])), (0xc1, frame.len() - 2));
    crate::protocol::deflate::decompress(&frame[2..], 2000).unwrap()
}

#[test]
fn a_frame_is_compressed_once_for_all_and_when_it_is_flushed() {
    let (frame, text) = compressible();
    let metrics = Arc::new(Metrics::default());
    let sessions: Vec<(Outbox, Arc<Kept>)> = (0..3)
        .map(|number| {
            let kept = Arc::new(Kept::default());
            let outbox = Outbox::new(number, 10_000, Arc::clone(&kept) as _, Arc::clone(&metrics));
            (outbox.compressed(true), kept)
        })
        .collect();
    for (outbox, _) in &sessions {
        assert_eq!(outbox.push_live(Some(1), || Some(frame.clone())), Pushed::First);
        outbox.push_own(Bytes::from_static(b"-"));
    }
    assert_eq!(metrics.uncompressed_bytes.get(), 0, "not where it was queued");
    for (outbox, kept) in &sessions {
        assert_eq!(outbox.flush(), Flushed::Empty);
        let sent = kept.take();
        let (last, sent) = sent.split_last().unwrap();
        assert_eq!((*last, decompressed(sent)), (b'-', text.clone().into_bytes()));
        let counted = (metrics.uncompressed_bytes.get(), metrics.compressed_bytes.get());
        assert_eq!(counted, (1004, sent.len() as u64));
    }
}

#[test]
fn short_frames_and_those_that_would_not_be_shorter_go_out_as_they_are() {
    let (outbox, kept) = compressing(1, 10_000);
    let mut state = 1_u32;
    let noise = (0..1024).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    for text in [vec![b'x'; 511], noise.collect()] {
        outbox.push_own(frame(text.clone()));
        assert_eq!(outbox.flush(), Flushed::Empty);
        assert!(kept.take() == text_frame(&[&text]));
    }
}

#[test]
fn the_bound_counts_frames_as_they_are_at_the_time() {
    let (frame, _) = compressible();
    let [(slow, kept), (fast, _)] = [compressing(1, 2500), compressing(2, 2500)];
    kept.allow(0);
    let push =
        |outbox: &Outbox, sequence, frame: &Frame| outbox.push_live(Some(sequence), || Some(frame.clone()));
    push(&slow, 1, &frame);
    assert_eq!(slow.flush(), Flushed::Blocked);
    // The first is compressed; others wait as they were built.
    let others: Vec<Frame> = (0..3).map(|_| compressible().0).collect();
    assert_eq!(
        [2, 3].map(|sequence| push(&slow, sequence, &others[sequence as usize - 2])),
        [Pushed::Queued; 2]
    );
    // Another session has one of them compressed: there is room again.
    push(&fast, 2, &others[0]);
    fast.flush();
    assert_eq!(push(&slow, 4, &others[2]), Pushed::Queued);
    assert_eq!(push(&slow, 5, &compressible().0), Pushed::Lagging);
    kept.allow(10_000);
    assert_eq!(slow.flush(), Flushed::Lagging);
    let sent = kept.take();
    let mut rest = sent.as_slice();
    while let [0xc1, length, ..] = rest {
        let (frame, others) = rest.split_at(2 + usize::from(*length));
        assert_eq!(decompressed(frame).len(), 1000);
        rest = others;
    }
    assert!(rest.is_empty() && sent.len() < 400, "{rest:?}");
}

#[test]
fn threads_that_flush_together_keep_the_order() {
    let (outbox, kept) = compressing(1, 1 << 20);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    outbox.flush();
                }
            });
        }
        for sequence in 0..200_u64 {
            let text = format!("{sequence:04}") + &"x".repeat(596);
            outbox.push_live(Some(sequence), || Some(frame(text)));
        }
    });
    outbox.flush();
    let sent = kept.take();
    let mut rest = sent.as_slice();
    for sequence in 0..200 {
        let (frame, others) = rest.split_at(2 + usize::from(rest[1]));
        assert!(decompressed(frame).starts_with(format!("{sequence:04}x").as_bytes()));
        rest = others;
    }
    assert!(rest.is_empty());
}
