//! Secret values, hidden in logs, errors and `--print-config`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(super) const HIDDEN: &str = "[hidden]";

/// A secret string. Only [`Secret::reveal`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(HIDDEN)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string (in quotes, if it looks like a number)")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// One or more server URLs. Only [`ServerUrl::reveal`] shows the user and password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Wraps one URL, or several separated by commas.
    pub fn new(url: &str) -> ServerUrl {
        ServerUrl(url.to_owned())
    }

    /// The URL with user and password.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(&self.0))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ServerUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Hides the user and password of each URL: everything before its last `@`.
///
/// Passwords may contain commas, so a comma separates URLs only if a scheme follows it.
pub(super) fn without_password(urls: &str) -> String {
    let mut shown = String::with_capacity(urls.len());
    let mut rest = urls;
    while !rest.is_empty() {
        let comma =
            rest.match_indices(',').map(|(index, _)| index).find(|index| is_url_start(rest, index + 1));
        let (url, remaining) = rest.split_at(comma.map_or(rest.len(), |index| index + 1));
        let (scheme, authority) = url.find("://").map_or(("", url), |end| url.split_at(end + "://".len()));
        shown.push_str(scheme);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str(HIDDEN);
                shown.push('@');
                shown.push_str(host);
            }
            None => shown.push_str(authority),
        }
        rest = remaining;
    }
    shown
}

/// Whether a scheme and `://` follow at `index`.
fn is_url_start(text: &str, index: usize) -> bool {
    let rest = text.get(index..).unwrap_or_default().trim_start();
    rest.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    })
}

#[cfg(test)]
mod tests {
    use serde::de::value::{Error, StrDeserializer, U64Deserializer};

    use super::*;

    #[test]
    fn only_reveal_shows_secrets() {
        let (secret, url) = (Secret::new("s3cr3t"), ServerUrl::new("amqp://u:s3cr3t@h"));
        assert_eq!((secret.reveal(), url.reveal()), ("s3cr3t", "amqp://u:s3cr3t@h"));
        assert_eq!(format!("{secret:?} {url:?} {url}"), "[hidden] amqp://[hidden]@h amqp://[hidden]@h");
        let json = serde_json::to_string(&(secret, url)).unwrap();
        assert_eq!(json, r#"["[hidden]","amqp://[hidden]@h"]"#);
    }

    #[test]
    fn secrets_must_be_strings() {
        let secret = Secret::deserialize(StrDeserializer::<Error>::new("s3cr3t")).unwrap();
        assert_eq!(secret.reveal(), "s3cr3t");
        let error = Secret::deserialize(U64Deserializer::<Error>::new(5)).unwrap_err().to_string();
        assert!(error.ends_with("expected a string (in quotes, if it looks like a number)"), "{error}");
    }

    #[test]
    fn passwords_are_hidden() {
        for (urls, shown) in [
            ("amqp://u:p@h/%2f", "amqp://[hidden]@h/%2f"),
            ("nats://u:p@h:1,nats://i:1, tls://u:p@k", "nats://[hidden]@h:1,nats://i:1, tls://[hidden]@k"),
            ("nats://u:p@h:1,nats://i:1,tls://u:p@k", "nats://[hidden]@h:1,nats://i:1,tls://[hidden]@k"),
            ("h:1,i:2", "h:1,i:2"),
            ("u:p@h:1", "[hidden]@h:1"),
            ("amqp://u:a,b@h", "amqp://[hidden]@h"),
            ("amqp://u:a@b,c@h", "amqp://[hidden]@h"),
            ("amqp://u:a,b@h,nats://v:c@i", "amqp://[hidden]@h,nats://[hidden]@i"),
            ("a+b://u:p@h,c+d://v:q@i", "a+b://[hidden]@h,c+d://[hidden]@i"),
            ("nats://h,u:p@i", "nats://[hidden]@i"),
            ("", ""),
            (",", ","),
        ] {
            assert_eq!(without_password(urls), shown, "{urls}");
        }
    }
}
