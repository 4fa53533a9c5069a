//! Asks auth-svc who a token belongs to and what it may see. Equal requests share one call, and replies are cached for a
//! short time, or until auth-svc announces a change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::RequestErrorKind;
use blackhole_common::{
    nats::requests::Requests,
    wire::{AuthReply, AuthRequest, MAX_TOKEN_BYTES, Subjects, TOKEN_TOO_LONG},
};
use bytes::Bytes;
use moka::future::Cache;
use thiserror::Error;

use crate::{
    clock::unix_now,
    metrics::{Metrics, Outcome},
    protocol::token::Token,
};

/// Most cached replies; each has a few hundred bytes.
const MAX_CACHED: u64 = 50_000;

/// auth-svc did not reply; the text is for the client.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Unavailable {
    /// No auth-svc listens.
    #[error("the authentication service is not available, try again")]
    NoResponder,
    /// No readable reply in time.
    #[error("the authentication service did not answer, try again")]
    NoReply,
}

/// A token's digest, the requested account, and how many changes had been announced: a reply from before a change, also
/// one that is still under way, is not used after it.
type CacheKey = ([u8; 32], Option<Box<str>>, u64);

/// A cached client of auth-svc.
#[derive(Clone, Debug)]
pub(crate) struct Authorizer {
    requests: Arc<dyn Requests>,
    subject: String,
    timeout: Duration,
    cache: Cache<CacheKey, Arc<AuthReply>>,
    changes: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

impl Authorizer {
    /// Asks by `requests`, waits at most `timeout`, and caches replies for `ttl`.
    pub(crate) fn new(
        requests: Arc<dyn Requests>,
        subjects: &Subjects,
        timeout: Duration,
        ttl: Duration,
        metrics: Arc<Metrics>,
    ) -> Authorizer {
        let cache = Cache::builder().max_capacity(MAX_CACHED).time_to_live(ttl).build();
        Authorizer {
            requests,
            subject: subjects.auth_check(),
            timeout,
            cache,
            changes: Arc::default(),
            metrics,
        }
    }

    /// Forgets all replies: something has changed.
    pub(crate) fn forget(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a reply is cached that accepts this token for this account.
    pub(crate) async fn has_accepted(&self, token: &Token, account_id: Option<&str>) -> bool {
        let reply = self.cache.get(&self.key(token, account_id)).await;
        reply.is_some_and(|reply| matches!(*reply, AuthReply::Accepted { .. }))
    }

    fn key(&self, token: &Token, account_id: Option<&str>) -> CacheKey {
        (token.digest(), account_id.map(Into::into), self.changes.load(Ordering::Relaxed))
    }

    /// auth-svc's decision on this token and this account (`None`: the token's own; `*`: all).
    ///
    /// # Errors
    /// [`Unavailable`], which is not cached.
    pub(crate) async fn check(
        &self,
        token: &Token,
        account_id: Option<&str>,
    ) -> Result<Arc<AuthReply>, Unavailable> {
        // Refuse here: large requests would fill auth-svc's memory.
        if token.reveal().len() > MAX_TOKEN_BYTES {
            return Ok(Arc::new(AuthReply::Refused { reason: TOKEN_TOO_LONG.to_owned() }));
        }
        let key = self.key(token, account_id);
        let reply = self
            .cache
            .try_get_with(key.clone(), self.call(token, account_id))
            .await
            .map_err(|error| *error)?;
        match &*reply {
            // The token may expire while its reply is cached.
            AuthReply::Accepted { bearer, .. } if bearer.expires_at <= unix_now() => {
                self.cache.invalidate(&key).await;
                self.call(token, account_id).await
            }
            _ => Ok(reply),
        }
    }

    async fn call(&self, token: &Token, account_id: Option<&str>) -> Result<Arc<AuthReply>, Unavailable> {
        let started = Instant::now();
        let reply = self.request(token, account_id).await;
        self.metrics.auth_seconds.observe(started.elapsed().as_secs_f64());
        let outcome = match &reply {
            Ok(reply) => match **reply {
                AuthReply::Accepted { .. } => "accepted",
                AuthReply::Refused { .. } => "refused",
            },
            Err(_) => "unavailable",
        };
        self.metrics.auth_calls.get_or_create(&Outcome { outcome }).inc();
        reply
    }

    async fn request(&self, token: &Token, account_id: Option<&str>) -> Result<Arc<AuthReply>, Unavailable> {
        let request =
            AuthRequest { token: token.reveal().to_owned(), account_id: account_id.map(str::to_owned) };
        let payload = serde_json::to_vec(&request).map_err(|_| Unavailable::NoReply)?;
        let payload = Bytes::from(payload);
        // Retry once: the auth-svc that got the request may have stopped before replying.
        let mut reply = self.send(payload.clone()).await;
        if reply == Err(RequestErrorKind::TimedOut) {
            reply = self.send(payload).await;
        }
        let reply = reply.map_err(|error| match error {
            RequestErrorKind::NoResponders => Unavailable::NoResponder,
            _ => Unavailable::NoReply,
        })?;
        serde_json::from_slice(&reply).map(Arc::new).map_err(|error| {
            tracing::warn!(%error, "cannot read the reply of auth-svc");
            Unavailable::NoReply
        })
    }

    async fn send(&self, payload: Bytes) -> Result<Bytes, RequestErrorKind> {
        self.requests.request(self.subject.clone(), payload, self.timeout / 2).await
    }
}
