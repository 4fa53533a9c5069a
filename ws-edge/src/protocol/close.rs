//! Why the edge closes sessions. `docs/protocol.md` lists the codes: after 1012, 1013 and 4000 to 4499 clients
//! reconnect,
//! after 4500 to 4999 they do not.

use tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

/// Why the edge closes a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// The edge is stopping; clients connect to another one.
    Restart,
    /// A frame violates the WebSocket protocol.
    Protocol,
    /// A text frame is not valid UTF-8.
    NotUtf8,
    /// A frame exceeds `ws.max_frame`.
    TooBig,
    /// The queue exceeded `ws.queue_bytes`, and there is no history to catch up from.
    TooSlow,
    /// Events that the session still needs have left the history.
    Behind,
    /// More control frames or fragments than any client needs.
    Flood,
    /// No token was accepted within `ws.auth_timeout`.
    Unauthenticated,
    /// Too many tokens were refused.
    TokensRefused,
    /// The token has expired.
    TokenExpired,
    /// The token is no longer accepted: its key, its account or the account's access is gone.
    Revoked,
    /// The NATS server refuses a subscription that it had taken before.
    Unavailable,
    /// auth-svc could not be asked for `ws.grant_lifetime`.
    Unconfirmed,
    /// Neither a request nor an event within `ws.idle_timeout`.
    Idle,
}

impl Close {
    /// All reasons.
    pub(crate) const ALL: [Close; 14] = [
        Close::Restart,
        Close::Protocol,
        Close::NotUtf8,
        Close::TooBig,
        Close::TooSlow,
        Close::Behind,
        Close::Flood,
        Close::Unauthenticated,
        Close::TokensRefused,
        Close::TokenExpired,
        Close::Revoked,
        Close::Unavailable,
        Close::Unconfirmed,
        Close::Idle,
    ];

    /// The close code.
    pub(crate) fn code(self) -> u16 {
        match self {
            Close::Restart => 1012,
            Close::Unavailable | Close::Unconfirmed => 1013,
            Close::Protocol => 1002,
            Close::NotUtf8 => 1007,
            Close::TooBig => 1009,
            Close::TooSlow | Close::Behind => 4008,
            Close::Unauthenticated | Close::TokensRefused | Close::TokenExpired | Close::Revoked => 4401,
            Close::Idle => 4408,
            Close::Flood => 4429,
        }
    }

    /// The metric's label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Close::Restart => "restart",
            Close::Protocol => "protocol",
            Close::NotUtf8 => "not_utf8",
            Close::TooBig => "too_big",
            Close::TooSlow => "too_slow",
            Close::Behind => "behind",
            Close::Flood => "flood",
            Close::Unauthenticated => "unauthenticated",
            Close::TokensRefused => "tokens_refused",
            Close::TokenExpired => "token_expired",
            Close::Revoked => "revoked",
            Close::Unavailable => "unavailable",
            Close::Unconfirmed => "unconfirmed",
            Close::Idle => "idle",
        }
    }

    /// The close frame.
    pub(crate) fn frame(self) -> CloseFrame {
        let reason = match self {
            Close::Restart => "the server is restarting, come back",
            Close::Protocol => "not the WebSocket protocol",
            Close::NotUtf8 => "a text frame has to be UTF-8",
            Close::TooBig => "the frame is too big",
            Close::TooSlow => "too many events waited to be read",
            Close::Behind => "events that were still to come have left the history",
            Close::Flood => "too many control frames or fragments",
            Close::Unauthenticated => "no token was accepted in time",
            Close::TokensRefused => "too many tokens were refused",
            Close::TokenExpired => "the token expired",
            Close::Revoked => "the token is no longer accepted",
            Close::Unavailable => "events are not available, come back later",
            Close::Unconfirmed => "the authentication service is not available, come back later",
            Close::Idle => "nothing was asked or sent for too long",
        };
        CloseFrame { code: CloseCode::from(self.code()), reason: reason.into() }
    }
}
