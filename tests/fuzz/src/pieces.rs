//! Bytes as a connection may deliver them: in pieces of any size.

/// Splits `input` into pieces, whose sizes follow from `seed`.
pub(crate) fn pieces(seed: u8, mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u32::from(seed);
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Mostly short ones.
        let most = if state & 0x100 == 0 { 8 } else { 256 };
        let size = 1 + (state >> 16) as usize % most;
        let (piece, rest) = input.split_at(size.min(input.len()));
        input = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Reads all items with `next`, up to the first error, which is the last item.
pub(crate) fn read_all<'i, T, E>(
    pieces: impl Iterator<Item = &'i [u8]>,
    mut next: impl FnMut(&mut bytes::BytesMut) -> Result<Option<T>, E>,
) -> Vec<Result<T, E>> {
    let mut read = bytes::BytesMut::new();
    let mut items = Vec::new();
    for piece in pieces {
        read.extend_from_slice(piece);
        while let Some(item) = next(&mut read).transpose() {
            let is_last = item.is_err();
            items.push(item);
            if is_last {
                return items;
            }
        }
    }
    items
}
