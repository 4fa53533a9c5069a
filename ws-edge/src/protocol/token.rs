//! A client's token, which no log line, metric or error text can show.

use std::{fmt, sync::Arc};

/// A token, as a client sent it. It shows itself nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Wraps a client's text.
    pub fn new(text: &str) -> Token {
        Token(text.into())
    }

    /// The text, for auth-svc and KAZOO alone.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Tells tokens apart in the cache, which holds none.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = [0; 32];
        for (to, from) in
            digest.iter_mut().zip(ring::digest::digest(&ring::digest::SHA256, self.0.as_bytes()).as_ref())
        {
            *to = *from;
        }
        digest
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[token]")
    }
}
