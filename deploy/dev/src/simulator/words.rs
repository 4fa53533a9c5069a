//! KAZOO's encodings: words of routing keys, database names, times.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds from the year 0, the epoch of KAZOO, to 1970.
const GREGORIAN_UNIX: u64 = 62_167_219_200;

/// Encodes a word of a routing key as KAZOO does: a dot would otherwise start another word.
///
/// The wildcards `*` and `#` stay unchanged.
pub fn encode_word(word: &str) -> String {
    if matches!(word, "*" | "#") {
        return word.to_owned();
    }
    let mut encoded = String::with_capacity(word.len());
    for byte in word.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'~' | b'_' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            // Writing to a string does not fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

/// A time as KAZOO writes it: whole seconds since the year 0.
pub fn gregorian(time: SystemTime) -> u64 {
    unix(time).as_secs() + GREGORIAN_UNIX
}

/// The time since 1970.
pub(super) fn unix(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The database name of an account, encoded as in KAZOO's keys and bodies.
pub fn account_database(account_id: &str) -> String {
    let cut = |from: usize, to: usize| account_id.get(from..to).unwrap_or_default();
    format!("account%2F{}%2F{}%2F{}", cut(0, 2), cut(2, 4), cut(4, account_id.len()))
}

/// The database of an account and month, which holds its faxes and recordings.
pub fn month_database(account_id: &str, time: SystemTime) -> String {
    let date = time::OffsetDateTime::from(time);
    format!("{}-{:04}{:02}", account_database(account_id), date.year(), u8::from(date.month()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_encoded_as_by_kazoo() {
        assert_eq!(encode_word("at6dmu4ffk97vnlp6qfq"), "at6dmu4ffk97vnlp6qfq");
        assert_eq!(encode_word("1f3c9a.77e2@10.0.4.17"), "1f3c9a%2E77e2%4010%2E0%2E4%2E17");
        assert_eq!(encode_word("a b-c~d_e"), "a+b-c~d_e");
        assert_eq!(encode_word("é/%"), "%C3%A9%2F%25");
        assert_eq!(
            (encode_word("*"), encode_word("#"), encode_word("**")),
            ("*".into(), "#".into(), "%2A%2A".into())
        );
        assert_eq!(encode_word(""), "");
    }

    #[test]
    fn database_names_contain_account_and_month() {
        let id = "4b31dd1d32ce6d249897c06332375d65";
        assert_eq!(account_database(id), "account%2F4b%2F31%2Fdd1d32ce6d249897c06332375d65");
        let november = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        assert_eq!(month_database(id, november), format!("{}-202611", account_database(id)));
    }

    #[test]
    fn times_count_from_the_year_0() {
        assert_eq!(gregorian(UNIX_EPOCH + Duration::from_secs(1_443_672_756)), 63_610_891_956);
    }
}
