//! Who may use the routes that list or change something. Health and metrics are open.

use std::net::{IpAddr, SocketAddr};

use hyper::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq;

use super::AdminResponse;
use crate::config::Secret;

/// Who may use the routes that list or change something.
#[derive(Debug)]
pub enum Access {
    /// Whoever has the token.
    Token(Secret),
    /// Whoever can connect.
    Anyone,
    /// Whoever can connect, which is this machine only.
    ThisMachine,
    /// Nobody, because everybody could connect.
    Nobody,
}

impl Access {
    /// `listen` is where the server listens; `anyone` allows access without a token.
    pub fn new(token: Option<Secret>, anyone: bool, listen: SocketAddr) -> Access {
        match token {
            Some(token) => Access::Token(token),
            None if anyone => Access::Anyone,
            None if listen.ip().to_canonical().is_loopback() => Access::ThisMachine,
            None => Access::Nobody,
        }
    }

    /// # Errors
    /// The refusal.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), AdminResponse> {
        let (status, text) = match self {
            Access::Token(token) if has_token(headers, token) => return Ok(()),
            Access::Token(_) => {
                (StatusCode::UNAUTHORIZED, "the admin token is required: Authorization: Bearer TOKEN\n")
            }
            Access::Anyone => return Ok(()),
            Access::ThisMachine if is_local_name(headers) => return Ok(()),
            Access::ThisMachine => (
                StatusCode::FORBIDDEN,
                "without an admin token, use localhost or an IP address: a web page could be behind another name\n",
            ),
            Access::Nobody => (
                StatusCode::FORBIDDEN,
                "not available without a token: set admin.token_file or admin.token, or let admin.listen be a loopback address\n",
            ),
        };
        Err(AdminResponse::text(status, text))
    }
}

fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, sent) = value.as_bytes().split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(sent)
    });
    // The time that this takes tells the token's length at most.
    sent.is_some_and(|sent| sent.ct_eq(token.reveal().as_bytes()).into())
}

/// Whether the request is for `localhost` or an IP address. A web page can give its own name the address 127.0.0.1, and
/// would then be of the same origin as this server.
fn is_local_name(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        // Browsers always send it.
        return true;
    };
    let Ok(host) = host.to_str() else { return false };
    host.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("localhost"))
        || host.parse::<SocketAddr>().is_ok()
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "a-token-of-the-operator";

    fn check(token: Option<&str>, anyone: bool, listen: &str, headers: &[(&str, &str)]) -> u16 {
        let access = Access::new(token.map(Secret::new), anyone, listen.parse().unwrap());
        let headers = headers.iter().map(|(name, value)| {
            let name: header::HeaderName = name.parse().unwrap();
            (name, value.parse().unwrap())
        });
        match access.check(&headers.collect()) {
            Ok(()) => 200,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    #[test]
    fn a_configured_token_is_always_required() {
        for listen in ["127.0.0.1:9403", "0.0.0.0:9403"] {
            let of = |value: &str| check(Some(TOKEN), true, listen, &[("authorization", value)]);
            assert_eq!(of(&format!("Bearer {TOKEN}")), 200);
            assert_eq!(of(&format!("bearer {TOKEN}")), 200);
            for wrong in
                [TOKEN, "Bearer", "Bearer ", "Bearer a-token-of-the-operato", "Basic a-token-of-the-operator"]
            {
                assert_eq!(of(wrong), 401, "{wrong}");
            }
            assert_eq!(of(&format!("Bearer {TOKEN}r")), 401);
            assert_eq!(of(&format!("Bearer  {TOKEN}")), 401);
            assert_eq!(check(Some(TOKEN), true, listen, &[]), 401);
        }
    }

    #[test]
    fn without_a_token_only_loopback_allows_access() {
        for (listen, anyone, expected) in [
            ("127.0.0.1:9403", false, 200),
            ("127.0.0.7:9403", false, 200),
            ("[::1]:9403", false, 200),
            ("[::ffff:127.0.0.1]:9403", false, 200),
            ("0.0.0.0:9403", false, 403),
            ("[::]:9403", false, 403),
            ("10.0.0.5:9403", false, 403),
            ("10.0.0.5:9403", true, 200),
        ] {
            assert_eq!(check(None, anyone, listen, &[]), expected, "{listen}");
        }
    }

    #[test]
    fn without_a_token_the_host_must_not_be_a_web_pages() {
        for (host, expected) in [
            ("localhost", 200),
            ("LOCALHOST:9403", 200),
            ("127.0.0.1:9403", 200),
            ("127.0.0.1", 200),
            ("[::1]:9403", 200),
            ("[::1]", 200),
            ("evil.example", 403),
            ("evil.example:9403", 403),
            ("localhost.evil.example:9403", 403),
            ("127.0.0.1.evil.example", 403),
            ("", 403),
        ] {
            assert_eq!(check(None, false, "127.0.0.1:9403", &[("host", host)]), expected, "{host}");
        }
    }
}
