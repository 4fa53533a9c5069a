//! Checks the paths that clients may request. Anything that two URL parsers may interpret differently is refused: the edge
//! and Crossbar must mean the same path.

use percent_encoding::percent_decode_str;

/// The longest path and query, in bytes.
const MAX_BYTES: usize = 4096;

/// A client's endpoint as path and query, beginning with one slash.
///
/// # Errors
/// The reason for refusing it.
pub fn checked(text: &str) -> Result<String, &'static str> {
    if text.len() > MAX_BYTES {
        return Err("longer than 4096 bytes");
    }
    let (path, query) = match text.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (text, None),
    };
    // As in KAZOO, the leading slash is optional.
    let path = path.strip_prefix('/').unwrap_or(path);
    let mut segments = path.split('/');
    if !segments.next().is_some_and(is_version) {
        return Err("must begin with the API's version, such as /v2/accounts");
    }
    let mut segments = segments.peekable();
    while let Some(segment) = segments.next() {
        if segment.is_empty() && segments.peek().is_some() {
            return Err("must not have empty segments");
        }
        check_segment(segment)?;
    }
    if let Some(query) = query {
        check_text(query, b"/?[]")?;
    }
    Ok(match query {
        Some(query) => format!("/{path}?{query}"),
        None => format!("/{path}"),
    })
}

/// Whether a segment is like `v2`. Clients must not reach other paths of the same server.
fn is_version(segment: &str) -> bool {
    segment.strip_prefix('v').is_some_and(|number| {
        (1..=2).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn check_segment(segment: &str) -> Result<(), &'static str> {
    let decoded = check_text(segment, b"")?;
    if decoded.iter().any(|byte| b"/\\".contains(byte)) {
        return Err("must not have encoded separators");
    }
    // Some servers treat the text after a semicolon as a parameter of the segment.
    let name = decoded.split(|byte| *byte == b';').next().unwrap_or_default();
    if name == b"." || name == b".." {
        return Err("must not climb");
    }
    Ok(())
}

/// Decodes a part, which may consist of RFC 3986's characters of a segment, and of those in `more`.
fn check_text(part: &str, more: &[u8]) -> Result<Vec<u8>, &'static str> {
    let is_allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%".contains(&byte) || more.contains(&byte)
    };
    if !part.bytes().all(is_allowed) {
        return Err("must be percent-encoded");
    }
    let decoded: Vec<u8> = percent_decode_str(part).collect();
    let escapes = part.matches('%').count();
    if part.len() - decoded.len() != 2 * escapes {
        return Err("must be percent-encoded");
    }
    if decoded.iter().any(u8::is_ascii_control) {
        return Err("must not have control characters");
    }
    let twice: Vec<u8> = percent_encoding::percent_decode(&decoded).collect();
    if twice != decoded {
        return Err("must not be encoded twice");
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use url::Url;

    use super::*;

    #[test]
    fn paths_of_the_api_are_accepted_unchanged() {
        for (text, expected) in [
            ("/v2/accounts/156e05e8a12fd138540cd2017a97e371/users", None),
            ("v2/about", Some("/v2/about")),
            ("/v1", None),
            ("/v2/accounts/", None),
            ("/v2/phone_numbers/%2B15551234567", None),
            ("/v2/channels/a%40b.c_d~e-f", None),
            ("/v2/a?filter_name=J%20S&created_from=1&paginate=false&x[]=/?", None),
            ("/v2/a?", None),
        ] {
            assert_eq!(checked(text).as_deref(), Ok(expected.unwrap_or(text)), "{text}");
        }
    }

    #[test]
    fn ambiguous_paths_are_refused() {
        let (version, empty) =
            ("must begin with the API's version, such as /v2/accounts", "must not have empty segments");
        let (encoded, separators) = ("must be percent-encoded", "must not have encoded separators");
        for (text, expected) in [
            ("", version),
            ("/", version),
            ("http://elsewhere/v2/a", version),
            ("//elsewhere/v2/a", version),
            ("/\\elsewhere/v2", version),
            ("@elsewhere/v2/a", version),
            (":80@elsewhere/v2", version),
            (".elsewhere/v2", version),
            ("/vx/a", version),
            ("/v222/a", version),
            ("/v2%2F../a", version),
            ("/%762/a", version),
            ("/v2#/a", version),
            ("/ v2/a", version),
            ("/../v2/a", version),
            ("/v2//a", empty),
            ("/v2/a//", empty),
            ("/v2/./a", "must not climb"),
            ("/v2/../a", "must not climb"),
            ("/v2/..", "must not climb"),
            ("/v2/%2e%2E/a", "must not climb"),
            ("/v2/.%2e/a", "must not climb"),
            ("/v2/..;x/a", "must not climb"),
            ("/v2/a%2fb", separators),
            ("/v2/a%5Cb", separators),
            ("/v2/a\\b", encoded),
            ("/v2/a b", encoded),
            ("/v2/a#b", encoded),
            ("/v2/ä", encoded),
            ("/v2/a%", encoded),
            ("/v2/a%2", encoded),
            ("/v2/a%zz", encoded),
            ("/v2/a\r\nX-Auth-Token: b", encoded),
            ("/v2/a\0", encoded),
            ("/v2/a?b=c d", encoded),
            ("/v2/a?b=c\n", encoded),
            ("/v2/a%0d%0ab", "must not have control characters"),
            ("/v2/a%00", "must not have control characters"),
            ("/v2/a?b=%0A", "must not have control characters"),
            ("/v2/%252e%252e/a", "must not be encoded twice"),
            ("/v2/a%252Fb", "must not be encoded twice"),
        ] {
            assert_eq!(checked(text), Err(expected), "{text:?}");
        }
        assert_eq!(checked(&format!("/v2/{}", "a".repeat(4096))), Err("longer than 4096 bytes"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn accepted_endpoints_stay_below_the_base_for_every_parser(
            parts in proptest::collection::vec(
                prop_oneof![
                    "[ -~]{1,3}",
                    proptest::sample::select(vec![
                        "/", "//", "..", ".", "%2e", "%2F", "%5c", "\\", "?", "#", "@", ":", "v2", "/v2", "%25",
                        "http:", "\r\n", "\t", "ü", ";", "%00", "a",
                    ]).prop_map(str::to_owned),
                ],
                0..8,
            ),
            prefix in proptest::sample::select(vec!["", "/v2", "v2/"]),
        ) {
            let text = prefix.to_owned() + &parts.concat();
            if let Ok(endpoint) = checked(&text) {
                let base = "http://crossbar.example.com:8000/base";
                let whole = format!("{base}{endpoint}");
                let url = Url::parse(&whole).unwrap();
                prop_assert_eq!(url.host_str(), Some("crossbar.example.com"));
                prop_assert_eq!(url.port(), Some(8000));
                prop_assert!(url.username().is_empty() && url.fragment().is_none());
                // `Url` resolves dot segments, as browsers do: there must be none.
                let path = endpoint.split('?').next().unwrap();
                prop_assert_eq!(url.path(), format!("/base{}", path));
                let uri: hyper::Uri = whole.parse().unwrap();
                prop_assert_eq!(uri.authority().unwrap().as_str(), "crossbar.example.com:8000");
                prop_assert_eq!(uri.path(), url.path());
            }
        }
    }
}
