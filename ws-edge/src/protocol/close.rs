//! Why sessions are closed. `docs/protocol.md` has the same table for clients: 1012 and 4000 to 4499 mean come
//! back, 4500 to 4999 mean do not.

use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

/// Why a session is closed by the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The edge is stopping; another one serves.
    Restart,
    /// A frame breaks the WebSocket protocol.
    Protocol,
    /// A text frame that is no UTF-8.
    NotUtf8,
    /// A frame over `ws.max_frame`.
    TooBig,
    /// More than `ws.queue_bytes` waited to be read, and there is no history to bring it from later.
    TooSlow,
    /// What the session was still owed has left the history.
    Behind,
    /// The token's time is over.
    TokenExpired,
    /// Neither a request nor an event for `ws.idle_timeout`.
    Idle,
}

impl Close {
    /// The code of the close frame.
    pub fn code(self) -> u16 {
        match self {
            Close::Restart => 1012,
            Close::Protocol => 1002,
            Close::NotUtf8 => 1007,
            Close::TooBig => 1009,
            Close::TooSlow | Close::Behind => 4008,
            Close::TokenExpired => 4401,
            Close::Idle => 4408,
        }
    }

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Close::Restart => "restart",
            Close::Protocol => "protocol",
            Close::NotUtf8 => "not_utf8",
            Close::TooBig => "too_big",
            Close::TooSlow => "too_slow",
            Close::Behind => "behind",
            Close::TokenExpired => "token_expired",
            Close::Idle => "idle",
        }
    }

    /// The close frame.
    pub fn frame(self) -> CloseFrame {
        let reason = match self {
            Close::Restart => "the server is restarting, come back",
            Close::Protocol => "not the WebSocket protocol",
            Close::NotUtf8 => "a text frame has to be UTF-8",
            Close::TooBig => "the frame is too big",
            Close::TooSlow => "too many events waited to be read",
            Close::Behind => "events that were still to come have left the history",
            Close::TokenExpired => "the token expired",
            Close::Idle => "nothing was asked or sent for too long",
        };
        CloseFrame { code: CloseCode::from(self.code()), reason: reason.into() }
    }
}
