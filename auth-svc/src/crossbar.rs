//! KAZOO's tokens and accounts from Crossbar, for who has no way to CouchDB.
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | `[auth.crossbar]` |
//! | [`answers`] | reading Crossbar's answers |
//! | [`verifier`] | tokens: by Crossbar, or by what comes before or after it |
//!
//! Crossbar is asked with the token that is in question, so auth-svc needs no login of its own, and nobody learns more than
//! Crossbar would tell him: `tokeninfo` says whether a token counts, `/accounts/{id}` whether its bearer may see an account, and
//! `/accounts/{id}/tree` what is above that. Answers are remembered for a short time; equal questions are asked once.
//!
//! KAZOO makes the key that a token names if there is none. So only tokens with one of the listed key ids are passed on.

pub mod answers;
pub mod config;
pub mod verifier;

use std::sync::Arc;

use blackhole_common::readiness::Latch;
use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    header::{self, HeaderValue},
};
use jsonwebtoken::Algorithm;
use moka::{future, sync};
use ring::digest;

use self::{
    answers::{Answer, TokenInfo},
    config::CrossbarConfig,
};
use crate::{
    claims::{self, VerifiedToken},
    couchdb::{client::account_database, verifier::not_expired},
    directory::{Account, AccountDirectory},
    error::Error,
    http::{Asker, HttpError, Limits},
    issuers::{Issuer, KAZOO},
    metrics::Metrics,
    realms::Realms,
    refusal::Refusal,
    token::Token,
};

/// What KAZOO signs with.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
/// Tokens that Crossbar has accepted, and accounts: 7 MB.
const MAX_GOOD: u64 = 20_000;
/// Tokens that it has refused. Apart, so that they cannot make the good ones be forgotten.
const MAX_BAD: u64 = 10_000;
/// Questions at once. More wait, within `auth.crossbar.timeout`.
const MAX_QUESTIONS: usize = 64;
/// An account's document has a few KiB, a tree a line for each level.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// What could not be asked.
const WHAT: &str = "crossbar";

/// SHA-256 of what was asked. Tokens are not kept.
type Digest = [u8; 32];
/// An account, or `None` if the token may not see it.
type Found = Option<Arc<Account>>;

/// Asks Crossbar, and remembers its answers.
pub struct Crossbar {
    base: String,
    key_ids: Vec<String>,
    asker: Asker,
    kazoo: Issuer,
    good: sync::Cache<Digest, TokenInfo>,
    bad: sync::Cache<Digest, Refusal>,
    accounts: sync::Cache<Digest, Found>,
    /// Who has a realm, as far as was heard lately.
    claims: sync::Cache<String, String>,
    /// Questions that are being asked. Answers are not kept in them.
    asking_tokens: future::Cache<Digest, Result<TokenInfo, Refusal>>,
    asking_accounts: future::Cache<Digest, Found>,
    realms: Arc<Realms>,
    metrics: Metrics,
    current: Latch,
}

/// Without what was asked.
impl std::fmt::Debug for Crossbar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crossbar").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Crossbar {
    /// Does not connect. `current` tells whether it answers.
    ///
    /// # Errors
    /// If the configuration is not usable.
    pub fn new(
        config: &CrossbarConfig,
        realms: Arc<Realms>,
        metrics: &Metrics,
        current: Latch,
    ) -> Result<Crossbar, String> {
        let url = config.base()?;
        let limits =
            Limits { timeout: config.timeout, answer_bytes: MAX_ANSWER_BYTES, at_once: MAX_QUESTIONS };
        let asker = Asker::new(url.scheme() == "https", config.ca_file.as_deref(), limits)?;
        let remembered =
            |capacity| sync::Cache::builder().max_capacity(capacity).time_to_live(config.cache).build();
        Ok(Crossbar {
            base: url.as_str().trim_end_matches('/').to_owned(),
            key_ids: config.key_ids.clone(),
            asker,
            kazoo: Issuer::kazoo(None, None),
            good: remembered(MAX_GOOD),
            bad: sync::Cache::builder().max_capacity(MAX_BAD).time_to_live(config.cache).build(),
            accounts: sync::Cache::builder().max_capacity(MAX_GOOD).time_to_live(config.cache).build(),
            claims: sync::Cache::builder().max_capacity(MAX_GOOD).time_to_live(2 * config.cache).build(),
            asking_tokens: asking(),
            asking_accounts: asking(),
            realms,
            metrics: metrics.clone(),
            current,
        })
    }

    /// Crossbar's URL.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Whether a token may be passed on to Crossbar: it claims to be KAZOO's, and names one of the listed keys.
    pub fn admits(&self, text: &str) -> bool {
        let is_listed = || {
            let token = Token::parse(text)?;
            let algorithm: Algorithm = token.algorithm()?.parse().map_err(|_| Refusal::Algorithm)?;
            let id = token.key_id()?.ok_or(Refusal::NoKeyId)?;
            let iss = token.claims()?.text("iss");
            Ok::<bool, Refusal>(
                ALGORITHMS.contains(&algorithm)
                    && self.key_ids.contains(&id)
                    && iss.is_some_and(|iss| iss == KAZOO),
            )
        };
        is_listed().unwrap_or(false)
    }

    /// Verifies a token that [`Crossbar::admits`], at `now` (Unix seconds). What Crossbar does not tell, such as the end, is
    /// read from the token itself, once Crossbar has said that KAZOO has signed it.
    ///
    /// # Errors
    /// [`Error::Refused`] if it is not valid, [`Error::Unavailable`] if that cannot be told now.
    pub async fn verify_at(&self, text: &str, now: u64) -> Result<VerifiedToken, Error> {
        // It costs no question to refuse what Crossbar could only refuse, too.
        let token = VerifiedToken::from_claims(&Token::parse(text)?.claims()?, &self.kazoo, now)?;
        not_expired(token.expires_at, now)?;
        self.accepts(text).await??;
        Ok(token)
    }

    /// Asks whether Crossbar accepts a token that [`Crossbar::admits`], for the account that it names itself.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that cannot be told now.
    pub async fn accepts(&self, text: &str) -> Result<Result<(), Refusal>, Error> {
        let info = self.token_info(text).await?;
        let own = Token::parse(text).and_then(|token| claims::account(&token.claims()?, claims::ACCOUNT));
        Ok(info.and_then(|info| match own? == info.account_id {
            true => Ok(()),
            false => Err(Refusal::Crossbar),
        }))
    }

    async fn token_info(&self, text: &str) -> Result<Result<TokenInfo, Refusal>, Error> {
        let key = digest_of(&[text]);
        if let Some(info) = self.good.get(&key) {
            return Ok(Ok(info));
        }
        if let Some(refusal) = self.bad.get(&key) {
            return Ok(Err(refusal));
        }
        let ask = async {
            let info = self.ask_token(text).await?;
            match &info {
                Ok(info) => self.good.insert(key, info.clone()),
                Err(refusal) => self.bad.insert(key, *refusal),
            }
            Ok::<_, HttpError>(info)
        };
        self.asking_tokens.try_get_with(key, ask).await.map_err(|error| unavailable(&error))
    }

    async fn ask_token(&self, text: &str) -> Result<Result<TokenInfo, Refusal>, HttpError> {
        let body = serde_json::json!({ "data": { "token": text } }).to_string();
        let path = "/v2/auth/tokeninfo";
        let answer = self.ask("token", Method::POST, path, None, body, answers::token).await?;
        Ok(match answer {
            Answer::Found(info) => Ok(info),
            Answer::Refused(refusal) => Err(refusal),
            Answer::Missing => Err(Refusal::Crossbar),
        })
    }

    async fn find(&self, id: &str, text: &str) -> Result<Found, Error> {
        let key = digest_of(&[text, id]);
        if let Some(found) = self.accounts.get(&key) {
            return Ok(found);
        }
        let ask = async {
            let found = self.ask_account(id, text).await?;
            self.accounts.insert(key, found.clone());
            Ok::<_, HttpError>(found)
        };
        self.asking_accounts.try_get_with(key, ask).await.map_err(|error| unavailable(&error))
    }

    async fn ask_account(&self, id: &str, text: &str) -> Result<Found, HttpError> {
        let path = format!("/v2/accounts/{id}");
        let read = |status, json: &[u8]| answers::account(id, status, json);
        let account = self.get("account", &path, text, read).await?;
        let Answer::Found(mut account) = account else { return Ok(None) };
        let own = Token::parse(text).and_then(|token| claims::account(&token.claims()?, claims::ACCOUNT));
        // What is above the token's own account is of no account, and Crossbar would not tell.
        if own.as_deref() != Ok(id) {
            let mut tree = self.get("tree", &format!("{path}/tree"), text, answers::tree).await?;
            if matches!(tree, Answer::Missing) {
                tree = self.get("tree", &format!("{path}/parents"), text, answers::tree).await?;
            }
            let Answer::Found(ancestors) = tree else { return Ok(None) };
            account.ancestors = ancestors;
        }
        account.realm = account.realm.filter(|realm| self.claim(realm, id));
        if let Some(realm) = &account.realm {
            self.realms.set(realm, Some(id));
        }
        Ok(Some(Arc::new(account)))
    }

    /// Notes who has a realm. False if another account was heard to have it a moment ago: it cannot be both's.
    fn claim(&self, realm: &str, id: &str) -> bool {
        let realm = realm.to_ascii_lowercase();
        let owner = self.claims.get_with_by_ref(&realm, || id.to_owned());
        if owner != id {
            tracing::warn!(realm, account = id, other = owner, "two accounts have the same realm");
            return false;
        }
        // The time starts anew.
        self.claims.insert(realm, owner);
        true
    }

    async fn get<T>(
        &self,
        what: &'static str,
        path: &str,
        token: &str,
        read: impl FnOnce(StatusCode, &[u8]) -> Result<Answer<T>, String>,
    ) -> Result<Answer<T>, HttpError> {
        self.ask(what, Method::GET, path, Some(token), String::new(), read).await
    }

    async fn ask<T>(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: String,
        read: impl FnOnce(StatusCode, &[u8]) -> Result<Answer<T>, String>,
    ) -> Result<Answer<T>, HttpError> {
        let url = format!("{}{path}", self.base);
        let malformed = |reason: String| HttpError::Malformed { url: url.clone(), reason };
        let request = || {
            let mut request = Request::new(Full::from(body));
            *request.method_mut() = method;
            *request.uri_mut() = url.parse().ok()?;
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if let Some(token) = token {
                let mut value = HeaderValue::try_from(token).ok()?;
                value.set_sensitive(true);
                headers.insert("x-auth-token", value);
            }
            Some(request)
        };
        let request = request().ok_or_else(|| malformed("it is no address".into()))?;
        let answer = self.asker.ask(request).await.and_then(|(status, json)| {
            if is_of_server(status) {
                return Err(HttpError::Status { url: url.clone(), status: status.as_u16() });
            }
            read(status, &json).map_err(malformed)
        });
        let label = answer.as_ref().map(|answer| matches!(answer, Answer::Found(_)));
        self.metrics.asked_crossbar(what, label.map_err(HttpError::kind));
        match &answer {
            Ok(_) => drop(self.current.set(true)),
            Err(error) => {
                if self.current.set(false) {
                    tracing::error!(%error, "crossbar does not answer as it should");
                }
            }
        }
        answer
    }

    /// Asks for what no token may see. Whatever the answer, it shows that Crossbar is there.
    ///
    /// # Errors
    /// If it gives no usable answer.
    pub async fn ping(&self) -> Result<(), HttpError> {
        let body = serde_json::json!({ "data": {} }).to_string();
        self.ask("token", Method::POST, "/v2/auth/tokeninfo", None, body, answers::token).await.map(drop)
    }
}

/// Whether the status says nothing about what was asked: too many questions, or a proxy whose server is away.
fn is_of_server(status: StatusCode) -> bool {
    status.is_redirection()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error() && status != StatusCode::INTERNAL_SERVER_ERROR)
}

fn asking<T: Clone + Send + Sync + 'static>() -> future::Cache<Digest, T> {
    let moment = std::time::Duration::from_millis(1);
    future::Cache::builder().max_capacity(MAX_GOOD).time_to_live(moment).build()
}

fn unavailable(error: &HttpError) -> Error {
    Error::Unavailable { what: WHAT, reason: error.to_string() }
}

fn digest_of(parts: &[&str]) -> Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(&part.len().to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut bytes = Digest::default();
    // SHA-256 has as many bytes.
    bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(byte, digest)| *byte = *digest);
    bytes
}

impl AccountDirectory for Crossbar {
    fn account<'a>(&'a self, id: &'a str, token: &'a str) -> BoxFuture<'a, Result<Found, Error>> {
        Box::pin(async move {
            // Other ids are no accounts of KAZOO's, and other tokens none that it should see.
            if account_database(id).is_none() || !self.admits(token) {
                return Ok(None);
            }
            self.find(id, token).await
        })
    }
}
