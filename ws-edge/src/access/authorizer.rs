//! Who bears a token and what it may see, asked of auth-svc: each question once at a time, each answer believed
//! for a short time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{Client, Message, Request, RequestError, RequestErrorKind};
use blackhole_common::wire::{AuthReply, AuthRequest, MAX_TOKEN_BYTES, Subjects, TOKEN_TOO_LONG};
use bytes::Bytes;
use moka::future::Cache;
use thiserror::Error;

use crate::{
    clock::unix_now,
    metrics::{Metrics, Outcome},
    protocol::token::Token,
};

/// Answers that are kept at most; one has a few hundred bytes.
const MAX_ANSWERS: u64 = 50_000;

/// There is no answer.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Unavailable {
    /// No auth-svc is there.
    #[error("the authentication service is not available, try again")]
    Away,
    /// None answered in time, or not in a way that could be read.
    #[error("the authentication service did not answer, try again")]
    Silent,
}

/// A token's digest and the account that is asked for.
type Question = ([u8; 32], Option<Box<str>>);

/// Asks auth-svc.
#[derive(Clone, Debug)]
pub struct Authorizer {
    client: Client,
    subject: String,
    timeout: Duration,
    answers: Cache<Question, Arc<AuthReply>>,
    metrics: Arc<Metrics>,
}

impl Authorizer {
    /// Asks over `client`, waits at most `timeout`, and believes an answer for `believed`.
    pub fn new(
        client: Client,
        subjects: &Subjects,
        timeout: Duration,
        believed: Duration,
        metrics: Arc<Metrics>,
    ) -> Authorizer {
        let answers = Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(believed).build();
        Authorizer { client, subject: subjects.auth_check(), timeout, answers, metrics }
    }

    /// What auth-svc says of this token and this account (`None`: the token's own; `*`: all).
    ///
    /// # Errors
    /// [`Unavailable`], which is not remembered.
    pub async fn check(
        &self,
        token: &Token,
        account_id: Option<&str>,
    ) -> Result<Arc<AuthReply>, Unavailable> {
        // It need not wait in auth-svc's memory to be refused there.
        if token.reveal().len() > MAX_TOKEN_BYTES {
            return Ok(Arc::new(AuthReply::Refused { reason: TOKEN_TOO_LONG.to_owned() }));
        }
        let key = (token.digest(), account_id.map(Into::into));
        let answer = self
            .answers
            .try_get_with(key.clone(), self.ask(token, account_id))
            .await
            .map_err(|error| *error)?;
        match &*answer {
            // A token may end while its answer is still believed.
            AuthReply::Accepted { bearer, .. } if bearer.expires_at <= unix_now() => {
                self.answers.invalidate(&key).await;
                self.ask(token, account_id).await
            }
            _ => Ok(answer),
        }
    }

    async fn ask(&self, token: &Token, account_id: Option<&str>) -> Result<Arc<AuthReply>, Unavailable> {
        let begun = Instant::now();
        let answer = self.request(token, account_id).await;
        self.metrics.auth_seconds.observe(begun.elapsed().as_secs_f64());
        let outcome = match &answer {
            Ok(reply) => match **reply {
                AuthReply::Accepted { .. } => "accepted",
                AuthReply::Refused { .. } => "refused",
            },
            Err(_) => "unavailable",
        };
        self.metrics.auth_calls.get_or_create(&Outcome { outcome }).inc();
        answer
    }

    async fn request(&self, token: &Token, account_id: Option<&str>) -> Result<Arc<AuthReply>, Unavailable> {
        let question =
            AuthRequest { token: token.reveal().to_owned(), account_id: account_id.map(str::to_owned) };
        let payload = serde_json::to_vec(&question).map_err(|_| Unavailable::Silent)?;
        let payload = Bytes::from(payload);
        // A question that an ending auth-svc took with it is asked once more, of another.
        let mut answer = self.send(payload.clone()).await;
        if answer.as_ref().is_err_and(|error| error.kind() == RequestErrorKind::TimedOut) {
            answer = self.send(payload).await;
        }
        let answer = answer.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => Unavailable::Away,
            _ => Unavailable::Silent,
        })?;
        serde_json::from_slice(&answer.payload).map(Arc::new).map_err(|error| {
            tracing::warn!(%error, "the answer of auth-svc cannot be read");
            Unavailable::Silent
        })
    }

    async fn send(&self, payload: Bytes) -> Result<Message, RequestError> {
        let request = Request::new().payload(payload).timeout(Some(self.timeout / 2));
        self.client.send_request(self.subject.clone(), request).await
    }
}
