//! A token explained, check by check, for the operator who wonders why it is refused.
//!
//! The checks are the very functions that the service uses; here they go on after the first failure.

use std::{fmt, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use crate::{
    access::{may_see, may_see_all},
    accounts::Accounts,
    claims,
    directory::Account,
    jwt::{Chosen, JwtVerifier},
    refusal::Refusal,
    token::Token,
};

/// More accounts than this are counted, not listed.
const MOST_LISTED: usize = 20;
/// Longer values are cut.
const MOST_SHOWN: usize = 120;

/// What there is to say about a token. It shows everything but the token itself, and is safe to print: what the
/// token says may hold anything.
#[derive(Debug, Default)]
pub struct Explanation {
    header: Vec<(String, String)>,
    claims: Vec<(String, String)>,
    checks: Vec<Check>,
    visible: Vec<String>,
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
    /// An earlier failure leaves nothing to check.
    Skipped,
}

impl Explanation {
    /// Explains `text` as a token at `now` (Unix seconds).
    pub fn of(text: &str, verifier: &JwtVerifier, accounts: &Accounts, now: u64) -> Explanation {
        let mut told = Explanation::default();
        let form = Token::parse(text);
        told.check("form", form.as_ref().map(|_| format!("{} bytes in three parts", text.len())));
        let Ok(token) = form else { return told };
        told.header = members(&token.header);
        told.claims = members(&token.claims);

        let chosen = verifier.choose(&token);
        told.check("key", chosen.as_ref().map(|chosen| describe(chosen, &token)));
        match chosen {
            Ok(chosen) if chosen.verifies(&token) => told.check("signature", Ok("fits".into())),
            Ok(_) => told.check("signature", Err(&Refusal::Signature)),
            Err(_) => told.push("signature", Verdict::Skipped, "not checked without a key".into()),
        }

        let claims = &token.claims;
        told.check("expiry", claims::expiry(claims, now).as_ref().map(|exp| when("ends", *exp, now)));
        match claims::not_before(claims, now) {
            Ok(None) => {}
            Ok(Some(time)) => told.check("start", Ok(when("starts", time, now))),
            Err(refusal) => told.check("start", Err(&refusal)),
        }
        if let Err(refusal) = claims::audience(claims) {
            told.check("audience", Err(&refusal));
        }

        let account = claims::account(claims).and_then(|id| accounts.get(id).ok_or(Refusal::UnknownAccount));
        match account {
            Ok(account) if account.enabled => {
                told.check("account", Ok(line(account)));
                told.visible = visible(account, accounts);
            }
            Ok(_) => told.check("account", Err(&Refusal::DisabledAccount)),
            Err(refusal) => told.check("account", Err(&refusal)),
        }
        told
    }

    /// Whether the service would accept the token.
    pub fn is_good(&self) -> bool {
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

fn describe(chosen: &Chosen, token: &Token<'_>) -> String {
    match chosen {
        Chosen::Secret(_) => "HS256 with auth.jwt.hs256_secret, for development".into(),
        Chosen::Key(_, algorithm) => {
            let id = token.key_id().ok().flatten().unwrap_or_default();
            format!("{algorithm:?} with {}.pem of auth.jwt.keys_dir", printable(id))
        }
    }
}

/// `ends 2026-11-23T09:00:00Z, in 1h`
fn when(what: &str, time: u64, now: u64) -> String {
    // `claims` takes no time beyond the year 9999, the last that can be formatted.
    let date = humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_secs(time));
    let distance = humantime::format_duration(Duration::from_secs(time.abs_diff(now)));
    match time.cmp(&now) {
        std::cmp::Ordering::Less => format!("{what} {date}, {distance} ago"),
        _ => format!("{what} {date}, in {distance}"),
    }
}

fn visible(bearer: &Account, accounts: &Accounts) -> Vec<String> {
    let mut seen: Vec<&Arc<Account>> =
        accounts.iter().filter(|account| may_see(bearer, account).is_ok()).collect();
    seen.sort_by_key(|account| (account.ancestors.len(), &account.name, &account.id));
    let mut lines: Vec<String> = seen.iter().take(MOST_LISTED).map(|account| line(account)).collect();
    if seen.len() > MOST_LISTED {
        lines.push(format!("and {} more", seen.len() - MOST_LISTED));
    }
    if may_see_all(bearer).is_ok() {
        lines.push("*  all accounts, and what belongs to none (superduper admin)".into());
    }
    lines
}

fn line(account: &Account) -> String {
    let realm = account.realm.as_deref().unwrap_or("no realm");
    format!("{}  {} ({})", account.id, printable(&account.name), printable(realm))
}

/// The members of a header or payload, in the token's order of names.
fn members(object: &Map<String, Value>) -> Vec<(String, String)> {
    let shown = |name: &str, value: &Value| match value {
        // Useless without the token's key, but nothing for a ticket or a chat either.
        _ if name == "identity_sig" => "[hidden]".to_owned(),
        Value::String(text) => printable(text),
        other => printable(&other.to_string()),
    };
    object.iter().map(|(name, value)| (printable(name), shown(name, value))).collect()
}

/// The text without what would steer a terminal or turn its direction, and not too long.
fn printable(text: &str) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == MOST_SHOWN {
            shown.push('…');
            break;
        }
        let steers = matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if character.is_control() || steers {
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
        if !self.is_good() {
            return writeln!(f, "the token is refused");
        }
        writeln!(f, "the token is good; it may see")?;
        self.visible.iter().try_for_each(|account| writeln!(f, "  {account}"))
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use blackhole_common::config::Secret;
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;
    use crate::testing;

    const NOW: u64 = 1_800_000_000;

    fn explain(token: &str) -> (bool, String) {
        let verifier = JwtVerifier::new(Some(&Secret::new(testing::SECRET)), None);
        let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
        let explanation = Explanation::of(token, &verifier, &accounts, NOW);
        let would = verifier.verify_at(token, NOW);
        let account = would.ok().and_then(|token| accounts.get(&token.account_id).cloned());
        assert_eq!(explanation.is_good(), account.is_some_and(|account| account.enabled));
        (explanation.is_good(), explanation.to_string())
    }

    fn token(claims: &Value) -> String {
        let key = EncodingKey::from_secret(testing::SECRET.as_bytes());
        jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
    }

    #[test]
    fn a_good_token_is_explained() {
        let claims =
            json!({"account_id": "reseller", "exp": NOW + 3660, "identity_sig": "x", "nbf": NOW - 5});
        let (good, text) = explain(&token(&claims));
        assert!(good, "{text}");
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
        assert!(text.ends_with("*  all accounts, and what belongs to none (superduper admin)\n"), "{text}");
    }

    #[test]
    fn every_failed_check_is_told() {
        let bad = token(&json!({"account_id": "closed", "exp": NOW - 60, "nbf": NOW + 60, "aud": "x"}));
        let (good, text) = explain(&bad[..bad.len() - 4]);
        assert!(!good);
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
    fn what_a_token_says_cannot_steer_the_terminal_or_show_the_token() {
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
