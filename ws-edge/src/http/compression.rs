//! Negotiating compression (RFC 7692) in an upgrade: reading a client's offers (`Sec-WebSocket-Extensions`).
//!
//! Both sides compress each message by itself, so that an edge remembers nothing of them, and sends the same frame to all.

use hyper::{HeaderMap, header};

const NAME: &str = "permessage-deflate";

/// The answer to the first offer that can be met; `None` if there is none, or a header is not what RFC 6455 (9.1) says. The
/// connection goes on without compression then.
pub fn answer(headers: &HeaderMap) -> Option<&'static str> {
    let mut offers = Vec::new();
    for value in headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS) {
        offers.extend(Text { rest: value.to_str().ok()? }.extensions()?);
    }
    offers.iter().find_map(|offer| if offer.name == NAME { answer_one(offer) } else { None })
}

/// The answer to an offer; `None` if it is not valid, or cannot be met.
fn answer_one(offer: &Extension<'_>) -> Option<&'static str> {
    let mut seen = Vec::new();
    let mut has_window = false;
    for (name, value) in &offer.parameters {
        if seen.contains(name) {
            return None;
        }
        seen.push(name);
        match (*name, value.as_deref()) {
            (
                "server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits",
                None,
            ) => {}
            // What the client sends is read with the largest window, whatever it uses.
            ("client_max_window_bits", Some(bits)) if (8..=15).any(|valid| bits == valid.to_string()) => {}
            // A smaller one would need frames of its own.
            ("server_max_window_bits", Some("15")) => has_window = true,
            _ => return None,
        }
    }
    Some(if has_window {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=15"
    } else {
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    })
}

/// An extension that a client offers.
struct Extension<'h> {
    name: &'h str,
    parameters: Vec<(&'h str, Option<String>)>,
}

/// The rest of a header.
struct Text<'h> {
    rest: &'h str,
}

impl<'h> Text<'h> {
    /// The list of extensions; elements may be empty (RFC 9110, 5.6.1).
    fn extensions(mut self) -> Option<Vec<Extension<'h>>> {
        let mut extensions = Vec::new();
        loop {
            while self.take(',') {}
            if self.rest.is_empty() {
                return Some(extensions);
            }
            extensions.push(self.extension()?);
            if !self.rest.is_empty() && !self.rest.starts_with(',') {
                return None;
            }
        }
    }

    fn extension(&mut self) -> Option<Extension<'h>> {
        let name = self.token()?;
        let mut parameters = Vec::new();
        while self.take(';') {
            let name = self.token()?;
            let value = if self.take('=') { Some(self.value()?) } else { None };
            parameters.push((name, value));
        }
        Some(Extension { name, parameters })
    }

    /// Takes this character, and the white space around it, if it is the next one.
    fn take(&mut self, wanted: char) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        self.skip_space();
        rest.is_some()
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn token(&mut self) -> Option<&'h str> {
        let end = self.rest.find(|c| !is_of_token(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_space();
        (!token.is_empty()).then_some(token)
    }

    /// A token, or one in quotes.
    fn value(&mut self) -> Option<String> {
        let Some(quoted) = self.rest.strip_prefix('"') else { return self.token().map(str::to_owned) };
        let mut value = String::new();
        let mut characters = quoted.chars();
        loop {
            match characters.next()? {
                '"' => break,
                '\\' => value.push(characters.next()?),
                c => value.push(c),
            }
        }
        self.rest = characters.as_str();
        self.skip_space();
        (!value.is_empty() && value.chars().all(is_of_token)).then_some(value)
    }
}

/// Whether a token may contain the character (RFC 9110, 5.6.2).
fn is_of_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    const ACCEPTED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

    fn answer_to(offers: &[&str]) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            headers
                .append(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_bytes(offer.as_bytes()).unwrap());
        }
        answer(&headers)
    }

    #[test]
    fn what_clients_offer_is_accepted() {
        for offers in [
            &["permessage-deflate"][..],
            // Chromium, Node and Python.
            &["permessage-deflate; client_max_window_bits"],
            &["permessage-deflate;client_max_window_bits=8;server_no_context_takeover"],
            &["permessage-deflate; client_no_context_takeover ;\tclient_max_window_bits=\"1\\5\""],
            &[" , x-webkit-deflate-frame ;a=\"\\1\" , permessage-deflate,"],
            &["unknown", "permessage-deflate"],
            // The first can not be met.
            &["permessage-deflate; server_max_window_bits=10, permessage-deflate"],
        ] {
            assert_eq!(answer_to(offers), Some(ACCEPTED), "{offers:?}");
        }
        let with_window = format!("{ACCEPTED}; server_max_window_bits=15");
        for offer in [
            "permessage-deflate; server_max_window_bits=15",
            "permessage-deflate; server_max_window_bits=\"15\"",
        ] {
            assert_eq!(answer_to(&[offer]), Some(&*with_window));
        }
    }

    #[test]
    fn other_offers_are_declined() {
        for parameters in [
            "; server_max_window_bits=9",
            "; server_max_window_bits",
            "; server_max_window_bits=015",
            "; server_max_window_bits=16",
            "; client_max_window_bits=7",
            "; client_max_window_bits=16",
            "; client_max_window_bits=08",
            "; client_max_window_bits=\"\"",
            "; client_max_window_bits=",
            "; client_no_context_takeover=1",
            "; server_no_context_takeover=true",
            "; client_no_context_takeover; client_no_context_takeover",
            "; client_max_window_bits; client_max_window_bits=12",
            "; unknown",
            "; unknown=1",
            ";",
            "; =1",
            " client_no_context_takeover",
            "; client_max_window_bits=\"10",
            ", other; a=\"1,;\\\"\"",
            "=1",
        ] {
            assert_eq!(answer_to(&[&format!("permessage-deflate{parameters}")]), None, "{parameters}");
        }
        for offers in [
            &[][..],
            &[""],
            &["permessage-gzip"],
            &["permessage-deflate", "é"],
            &["permessage-deflate", "a;"],
        ] {
            assert_eq!(answer_to(offers), None, "{offers:?}");
        }
    }
}
