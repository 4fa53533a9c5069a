//! The state of the stream.

use ws_edge::upstream::stream_info::read;

/// Whatever is accepted describes a stream.
pub(crate) fn run(input: &[u8]) -> bool {
    match read(input) {
        Ok(Some(info)) => {
            assert!(info.leader.as_deref() != Some(""));
            true
        }
        _ => false,
    }
}
