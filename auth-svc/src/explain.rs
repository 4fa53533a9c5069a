//! Explains a token check by check, so that operators can find out why it is refused.
//!
//! The checks are the same functions that the service uses, but they continue after the first failure.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    access,
    accounts::Accounts,
    claims,
    directory::Account,
    jwt_verifier::{ChosenKey, JwtVerifier},
    members::{Member, Members},
    refusal::Refusal,
    token::Token,
};

/// Further accessible accounts are only counted.
const MAX_LISTED_ACCOUNTS: usize = 20;
/// Longer values are truncated.
const MAX_VALUE_CHARS: usize = 120;

/// The explanation of a token. It does not contain the token itself, and is safe to print whatever the token
/// contains.
#[derive(Debug, Default)]
pub struct Explanation {
    header: Vec<(String, String)>,
    claims: Vec<(String, String)>,
    checks: Vec<Check>,
    accessible: Vec<String>,
}

#[derive(Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    /// Not possible after an earlier failure.
    Skipped,
}

impl Explanation {
    /// Explains `text` as a token at `now` (Unix seconds).
    pub fn of(text: &str, verifier: &JwtVerifier, accounts: &Accounts, now: u64) -> Explanation {
        let mut explanation = Explanation::default();
        // The service parses the claims last. Here they are shown even if nobody has signed them.
        let form = Token::parse(text).and_then(|token| Ok((token.claims()?, token)));
        explanation.check("form", form.as_ref().map(|_| format!("{} bytes in three parts", text.len())));
        let Ok((claims, token)) = form else { return explanation };
        explanation.header = members(&token.header);
        explanation.claims = members(&claims);

        let key = verifier.choose_key(&token);
        explanation.check("key", key.as_ref().map(|key| describe(key, &token)));
        match key {
            Ok(key) if verifier.has_signed(&key, &token) => explanation.check("signature", Ok("fits".into())),
            Ok(_) => explanation.check("signature", Err(&Refusal::Signature)),
            Err(_) => explanation.push("signature", Verdict::Skipped, "not checked without a key".into()),
        }

        let claims = &claims;
        explanation.check("expiry", claims::expiry(claims, now).as_ref().map(|exp| when("ends", *exp, now)));
        match claims::not_before(claims, now) {
            Ok(None) => {}
            Ok(Some(time)) => explanation.check("start", Ok(when("starts", time, now))),
            Err(refusal) => explanation.check("start", Err(&refusal)),
        }
        if let Err(refusal) = claims::audience(claims) {
            explanation.check("audience", Err(&refusal));
        }

        let account = claims::account(claims).and_then(|id| accounts.get(&id).ok_or(Refusal::UnknownAccount));
        match account {
            Ok(account) if account.enabled => {
                explanation.check("account", Ok(line(account)));
                explanation.accessible = accessible(account, accounts);
            }
            Ok(_) => explanation.check("account", Err(&Refusal::DisabledAccount)),
            Err(refusal) => explanation.check("account", Err(&refusal)),
        }
        explanation
    }

    /// Whether the service would accept the token.
    pub fn is_valid(&self) -> bool {
        self.checks.iter().all(|check| check.verdict == Verdict::Passed)
    }

    fn check(&mut self, name: &'static str, outcome: Result<String, &Refusal>) {
        match outcome {
            Ok(text) => self.push(name, Verdict::Passed, text),
            Err(refusal) => self.push(name, Verdict::Failed, refusal.to_string()),
        }
    }

    fn push(&mut self, name: &'static str, verdict: Verdict, text: String) {
        self.checks.push(Check { name, verdict, text });
    }
}

fn describe(key: &ChosenKey, token: &Token<'_>) -> String {
    match key {
        ChosenKey::Secret(_) => "HS256 with auth.jwt.hs256_secret, for development".into(),
        ChosenKey::Public(_, algorithm) => {
            let id = token.key_id().ok().flatten().unwrap_or_default();
            format!("{algorithm:?} with {}.pem of auth.jwt.keys_dir", printable(&id))
        }
    }
}

/// `ends 2026-11-23T09:00:00Z, in 1h`
fn when(what: &str, time: u64, now: u64) -> String {
    // `claims` clamps times to the year 9999, the last that can be formatted.
    let date = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(time));
    let distance = humantime::format_duration(Duration::from_secs(time.abs_diff(now)));
    match time.cmp(&now) {
        std::cmp::Ordering::Less => format!("{what} {date}, {distance} ago"),
        _ => format!("{what} {date}, in {distance}"),
    }
}

fn accessible(bearer: &Account, accounts: &Accounts) -> Vec<String> {
    let mut found: Vec<&Arc<Account>> =
        accounts.iter().filter(|account| access::check(bearer, account).is_ok()).collect();
    found.sort_by_key(|account| (account.ancestors.len(), &account.name, &account.id));
    let mut lines: Vec<String> =
        found.iter().take(MAX_LISTED_ACCOUNTS).map(|account| line(account)).collect();
    if found.len() > MAX_LISTED_ACCOUNTS {
        lines.push(format!("and {} more", found.len() - MAX_LISTED_ACCOUNTS));
    }
    if access::check_all(bearer).is_ok() {
        lines.push("*  all accounts, and events without an account (superduper admin)".into());
    }
    lines
}

fn line(account: &Account) -> String {
    let realm = account.realm.as_deref().unwrap_or("no realm");
    format!("{}  {} ({})", account.id, printable(&account.name), printable(realm))
}

/// The members of a header or payload, sorted by name.
fn members(members: &Members) -> Vec<(String, String)> {
    let shown = |name: &str, json: &str| match members.get(name) {
        // Useless without the key, but should not end up in tickets or chats.
        _ if name == "identity_sig" => "[hidden]".to_owned(),
        Some(Member::Text(text)) => printable(&text),
        _ => printable(json),
    };
    members.iter().map(|(name, json)| (printable(name), shown(name, json))).collect()
}

/// The text, truncated, with terminal control and bidirectional formatting characters escaped.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == MAX_VALUE_CHARS {
            shown.push('…');
            break;
        }
        let is_format = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if character.is_control() || is_format {
            shown.extend(character.escape_unicode());
        } else {
            shown.push(character);
        }
    }
    shown
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (title, members) in [("header", &self.header), ("claims", &self.claims)] {
            if members.is_empty() {
                continue;
            }
            writeln!(f, "{title}")?;
            let width = members.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
            for (name, value) in members {
                writeln!(f, "  {name:width$}  {value}")?;
            }
        }
        writeln!(f, "checks")?;
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Passed => "ok",
                Verdict::Failed => "FAILED",
                Verdict::Skipped => "-",
            };
            writeln!(f, "  {:9}  {verdict:6}  {}", check.name, check.text)?;
        }
        if !self.is_valid() {
            return writeln!(f, "the token is refused");
        }
        writeln!(f, "the token is good; it may see")?;
        self.accessible.iter().try_for_each(|account| writeln!(f, "  {account}"))
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use blackhole_common::config::Secret;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;
    use crate::testing;

    const NOW: u64 = 1_800_000_000;

    fn explain(token: &str) -> (bool, String) {
        let verifier = JwtVerifier::new(Some(&Secret::new(testing::SECRET)), None);
        let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
        let explanation = Explanation::of(token, &verifier, &accounts, NOW);
        let verified = verifier.verify_at(token, NOW);
        let account = verified.ok().and_then(|token| accounts.get(&token.account_id).cloned());
        assert_eq!(explanation.is_valid(), account.is_some_and(|account| account.enabled));
        (explanation.is_valid(), explanation.to_string())
    }

    fn token(claims: &Value) -> String {
        let key = EncodingKey::from_secret(testing::SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
    }

    #[test]
    fn valid_tokens_are_explained() {
        let claims =
            json!({"account_id": "reseller", "exp": NOW + 3660, "identity_sig": "x", "nbf": NOW - 5});
        let (valid, text) = explain(&token(&claims));
        assert!(valid, "{text}");
        for expected in [
            "  alg  HS256\n",
            "  account_id    reseller\n",
            "identity_sig  [hidden]",
            "expiry     ok      ends 2027-01-15T09:01:00Z, in 1h 1m",
            "start      ok      starts 2027-01-15T07:59:55Z, 5s ago",
            "account    ok      reseller  Reseller (Reseller.example.com)",
            "it may see\n  reseller  Reseller (Reseller.example.com)\n  child  Child (child.example.com)\n  below-closed",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let (_, text) = explain(&token(&json!({"account_id": "system", "exp": NOW})));
        assert!(
            text.ends_with("*  all accounts, and events without an account (superduper admin)\n"),
            "{text}"
        );
    }

    #[test]
    fn long_lists_of_accounts_are_truncated() {
        let secret = Secret::new(testing::SECRET);
        let verifier = JwtVerifier::new(Some(&secret), None);
        let token = token(&json!({"account_id": "0", "exp": NOW}));
        for (count, expected) in [(20, "  19  a19 (r19)\n"), (22, "  19  a19 (r19)\n  and 2 more\n")] {
            let text: String = (0..count)
                .map(|id| {
                    let parent = if id > 0 { "parent = \"0\"\n" } else { "" };
                    format!("[[account]]\nid = \"{id}\"\nname = \"a{id:02}\"\nrealm = \"r{id}\"\n{parent}")
                })
                .collect();
            let accounts = Accounts::parse(&text).unwrap();
            let explanation = Explanation::of(&token, &verifier, &accounts, NOW).to_string();
            assert!(explanation.ends_with(expected), "{explanation}");
        }
    }

    #[test]
    fn every_failed_check_is_reported() {
        let bad = token(&json!({"account_id": "closed", "exp": NOW - 60, "nbf": NOW + 60, "aud": "x"}));
        let (valid, text) = explain(&bad[..bad.len() - 4]);
        assert!(!valid);
        for expected in [
            "bad signature",
            "token is expired",
            "token is not valid yet",
            "token is for another audience",
            "account is disabled",
            "the token is refused",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let none =
            format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode("{}"));
        let (_, text) = explain(&none);
        for expected in ["algorithm is not accepted", "not checked without a key", "no expiry", "no account"]
        {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        assert!(explain("").1.contains("token is missing"));
        assert!(explain("a.b").1.contains("token is malformed"));
    }

    #[test]
    fn output_contains_neither_control_characters_nor_the_token() {
        let claims = json!({
            "account_id": "\u{1b}[2J\u{9b}2J\u{202e}", "exp": u64::MAX, "a\u{7}": ["\u{1b}"], "long": "x".repeat(999)
        });
        let token = token(&claims);
        let (_, text) = explain(&token);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        assert!(!text.contains('\u{202e}') && text.contains('…'));
        assert!(token.split('.').all(|part| !text.contains(part)));
    }
}
