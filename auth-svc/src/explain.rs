//! Explains a token check by check, so that operators can find out why it is refused.
//!
//! The checks are the same functions that the service uses, but they continue after the first failure.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    access,
    accounts::Accounts,
    claims,
    couchdb::verifier::{LiveVerifier, not_expired},
    crossbar::Crossbar,
    directory::Account,
    error::Error,
    issuers::{Issuer, KAZOO},
    jwt_verifier::{Candidate, ChosenKey, JwtVerifier},
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

        let candidates = verifier.candidates(&token);
        explanation.check("key", candidates.as_ref().map(|candidates| describe(candidates, &token)));
        let mut signers = candidates.unwrap_or_default();
        match signers.len() {
            0 => explanation.push("signature", Verdict::Skipped, "not checked without a key".into()),
            _ => {
                signers.retain(|candidate| verifier.has_signed(candidate, &token));
                let fits = if signers.is_empty() { Err(&Refusal::Signature) } else { Ok("fits".into()) };
                explanation.check("signature", fits);
            }
        }
        let issuer = explanation.issuer(&claims, verifier, &signers);
        explanation.claims(&claims, issuer, accounts, now);
        explanation
    }

    /// Checks what an issuer has signed.
    fn claims(&mut self, claims: &Members, issuer: Option<&Issuer>, accounts: &Accounts, now: u64) {
        self.check("expiry", claims::expiry(claims, now).as_ref().map(|exp| when("ends", *exp, now)));
        match claims::not_before(claims, now) {
            Ok(None) => {}
            Ok(Some(time)) => self.check("start", Ok(when("starts", time, now))),
            Err(refusal) => self.check("start", Err(&refusal)),
        }
        let audience = issuer.and_then(|issuer| issuer.audience.as_deref());
        match (claims::audience(claims, audience), audience) {
            (Err(refusal), _) => self.check("audience", Err(&refusal)),
            (Ok(()), Some(audience)) => self.check("audience", Ok(printable(audience))),
            (Ok(()), None) => {}
        }

        let scope = |account: &Account| issuer.is_none_or(|issuer| issuer.scope.contains(account));
        let claim = issuer.map_or(claims::ACCOUNT, |issuer| &issuer.account_claim);
        let account = claims::account(claims, claim);
        match account.and_then(|id| accounts.get(&id).ok_or(Refusal::UnknownAccount)) {
            Ok(account) if !scope(account) => self.check("account", Err(&Refusal::IssuerAccount)),
            Ok(account) if account.enabled => {
                self.check("account", Ok(line(account)));
                let sees_all = issuer.is_none_or(|issuer| issuer.scope.is_all());
                self.accessible = accessible(account, accounts, scope, sees_all);
            }
            Ok(_) => self.check("account", Err(&Refusal::DisabledAccount)),
            Err(refusal) => self.check("account", Err(&refusal)),
        }
    }

    /// Explains a token whose key's id is Crossbar's to decide about.
    ///
    /// # Errors
    /// If Crossbar cannot be asked.
    pub async fn by_crossbar(
        text: &str,
        crossbar: &Crossbar,
        accounts: &Accounts,
        now: u64,
    ) -> Result<Explanation, Error> {
        let mut explanation = Explanation::default();
        let form = Token::parse(text).and_then(|token| Ok((token.claims()?, token)));
        explanation.check("form", form.as_ref().map(|_| format!("{} bytes in three parts", text.len())));
        let Ok((claims, token)) = form else { return Ok(explanation) };
        explanation.header = members(&token.header);
        explanation.claims = members(&claims);
        let asked = crossbar.accepts(text).await?;
        explanation.check("crossbar", asked.as_ref().map(|()| format!("{} accepts it", crossbar.url())));
        explanation.claims(&claims, None, accounts, now);
        explanation.without_leeway(&claims, now);
        Ok(explanation)
    }

    /// KAZOO's tokens have no leeway where KAZOO is asked.
    fn without_leeway(&mut self, claims: &Members, now: u64) {
        if let Some(check) = self.checks.iter_mut().find(|check| check.name == "expiry")
            && check.verdict == Verdict::Passed
            && claims::expiry(claims, now).and_then(|exp| not_expired(exp, now)).is_err()
        {
            (check.verdict, check.text) = (Verdict::Failed, Refusal::Expired.to_string());
        }
    }

    /// Checks the issuer, and returns it if it is configured. Whether it has signed the token is told apart from whether it is
    /// configured, as the remedies differ.
    fn issuer<'v>(
        &mut self,
        claims: &Members,
        verifier: &'v JwtVerifier,
        signers: &[Candidate<'v>],
    ) -> Option<&'v Issuer> {
        const NAME: &str = "issuer";
        let Ok(issuer) = claims::issuer(claims, verifier.issuers().iter()) else {
            let names: Vec<_> = verifier.issuers().iter().map(|issuer| printable(&issuer.iss)).collect();
            let text = format!("{}: configured are {}", Refusal::Issuer, names.join(", "));
            self.push(NAME, Verdict::Failed, text);
            return None;
        };
        let own = signers.iter().any(|signer| signer.issuer.iss == issuer.iss);
        let name = printable(&issuer.iss);
        let (verdict, text) = match signers.first() {
            Some(_) if own => (Verdict::Passed, name),
            Some(other) => {
                let text = format!("{}: the key is one of {}", Refusal::Issuer, printable(&other.issuer.iss));
                (Verdict::Failed, text)
            }
            None => (Verdict::Skipped, format!("{name}, if it has signed it")),
        };
        self.push(NAME, verdict, text);
        Some(issuer)
    }

    /// Explains a token with keys and secrets in CouchDB, which must have been read.
    ///
    /// # Errors
    /// If CouchDB cannot be asked.
    pub async fn live(
        text: &str,
        verifier: &LiveVerifier,
        accounts: &Accounts,
        now: u64,
    ) -> Result<Explanation, Error> {
        verifier.prepare(text).await?;
        let mut explanation = Explanation::of(text, verifier.jwt(), accounts, now);
        let Ok(claims) = Token::parse(text).and_then(|token| token.claims()) else { return Ok(explanation) };
        let is_kazoos = claims.text("iss").is_some_and(|iss| iss == KAZOO);
        if !is_kazoos {
            return Ok(explanation);
        }
        explanation.without_leeway(&claims, now);
        match verifier.identity(&claims).await {
            Ok(None) => {
                explanation.check("identity", Ok("the token has no identity_sig, as KAZOO allows".into()));
            }
            Ok(Some(identity)) => {
                let text = format!("signed by {}, with today's secrets", printable(&identity.id));
                explanation.check("identity", Ok(text));
            }
            Err(Error::Refused(refusal)) => explanation.check("identity", Err(&refusal)),
            Err(error) => return Err(error),
        }
        Ok(explanation)
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

fn describe(candidates: &[Candidate<'_>], token: &Token<'_>) -> String {
    let id = token.key_id().ok().flatten().unwrap_or_default();
    let key = |candidate: &Candidate<'_>| match &candidate.key {
        ChosenKey::Secret(_) => "HS256 with auth.jwt.hs256_secret, for development".into(),
        ChosenKey::Public(_, algorithm) if candidate.issuer.is_live(&id) => {
            format!("{algorithm:?} with {} in CouchDB", printable(&id))
        }
        ChosenKey::Public(_, algorithm) if candidate.issuer.remote.is_some() => {
            format!(
                "{algorithm:?} with {} of {}, over HTTP",
                printable(&id),
                printable(&candidate.issuer.iss)
            )
        }
        ChosenKey::Public(_, algorithm) => {
            format!("{algorithm:?} with {}.pem of {}", printable(&id), printable(&candidate.issuer.iss))
        }
    };
    candidates.iter().map(key).collect::<Vec<_>>().join(", ")
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

fn accessible(
    bearer: &Account,
    accounts: &Accounts,
    scope: impl Fn(&Account) -> bool,
    sees_all: bool,
) -> Vec<String> {
    let is_seen = |account: &&Arc<Account>| access::check(bearer, account).is_ok() && scope(account);
    let mut found: Vec<&Arc<Account>> = accounts.iter().filter(is_seen).collect();
    found.sort_by_key(|account| (account.ancestors.len(), &account.name, &account.id));
    let mut lines: Vec<String> =
        found.iter().take(MAX_LISTED_ACCOUNTS).map(|account| line(account)).collect();
    if found.len() > MAX_LISTED_ACCOUNTS {
        lines.push(format!("and {} more", found.len() - MAX_LISTED_ACCOUNTS));
    }
    if sees_all && access::check_all(bearer).is_ok() {
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
mod tests;
