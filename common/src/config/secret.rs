//! Values that must not be seen: not in logs, errors, listings or `--print-config`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub(super) const HIDDEN: &str = "[hidden]";

/// A text that shows itself only where it is asked to.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    /// The text itself.
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
                f.write_str("a text (in quotes, if it looks like a number)")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret::new(text))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A server's URL, whose password shows only where it is asked to.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// Wraps a URL, or several with commas between.
    pub fn new(url: &str) -> ServerUrl {
        ServerUrl(url.to_owned())
    }

    /// The URL with its password.
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

/// The text with what stands before the last `@` of each of several URLs hidden.
///
/// A comma may stand in a password, so it parts two URLs only where a scheme follows.
pub(super) fn without_password(urls: &str) -> String {
    let mut shown = String::with_capacity(urls.len());
    let mut rest = urls;
    while !rest.is_empty() {
        let comma =
            rest.match_indices(',').map(|(place, _)| place).find(|place| begins_a_url(rest, place + 1));
        let (url, further) = rest.split_at(comma.map_or(rest.len(), |place| place + 1));
        let (scheme, place) = url.find("://").map_or(("", url), |end| url.split_at(end + "://".len()));
        shown.push_str(scheme);
        match place.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str(HIDDEN);
                shown.push('@');
                shown.push_str(host);
            }
            None => shown.push_str(place),
        }
        rest = further;
    }
    shown
}

/// Whether a scheme and `://` stand there.
fn begins_a_url(text: &str, place: usize) -> bool {
    let from = text.get(place..).unwrap_or_default().trim_start();
    from.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+')
    })
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn passwords_are_hidden_whatever_they_hold() {
        for (urls, shown) in [
            ("amqp://u:p@h/%2f", "amqp://[hidden]@h/%2f"),
            ("nats://u:p@h:1,nats://i:1, tls://u:p@k", "nats://[hidden]@h:1,nats://i:1, tls://[hidden]@k"),
            ("nats://u:p@h:1,nats://i:1,tls://u:p@k", "nats://[hidden]@h:1,nats://i:1,tls://[hidden]@k"),
            ("h:1,i:2", "h:1,i:2"),
            ("u:p@h:1", "[hidden]@h:1"),
            ("amqp://u:a,b@h", "amqp://[hidden]@h"),
            ("amqp://u:a@b,c@h", "amqp://[hidden]@h"),
            ("nats://h,u:p@i", "nats://[hidden]@i"),
            ("", ""),
            (",", ","),
        ] {
            assert_eq!(without_password(urls), shown, "{urls}");
        }
    }
}
