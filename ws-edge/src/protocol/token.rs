//! A client's token. Its `Debug` output hides it, so that no log line contains it.

use std::{fmt, sync::Arc};

/// A token, as a client sent it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    /// Wraps a client's text.
    pub(crate) fn new(text: &str) -> Token {
        Token(text.into())
    }

    /// The token's text; only for requests to auth-svc and KAZOO.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// A hash that identifies the token in the cache, which contains no tokens.
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
