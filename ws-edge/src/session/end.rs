//! Why a session ends.

use tungstenite::error::ProtocolError;

use crate::protocol::close::Close;

/// Why a session ended.
pub(super) enum End {
    /// The edge closes it.
    Close(Close),
    /// The client closed it or is unreachable; the label of the metric.
    Gone(&'static str),
    /// Its only request failed, so it has not begun.
    Refused,
}

/// What an error of the connection means for its session.
pub(super) fn end_of(error: &tungstenite::Error) -> End {
    use tungstenite::Error;
    match error {
        Error::Capacity(_) => End::Close(Close::TooBig),
        Error::Utf8(_) => End::Close(Close::NotUtf8),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => End::Gone("reset"),
        Error::AttackAttempt => End::Close(Close::Flood),
        Error::Protocol(_) => End::Close(Close::Protocol),
        Error::ConnectionClosed | Error::AlreadyClosed => End::Gone("client"),
        _ => End::Gone("reset"),
    }
}
