//! A client of Crossbar, KAZOO's HTTP API, for the action `api`.
//!
//! Clients choose method, path and body. Requests go to `ws.crossbar_url` only, with the session's own token, and
//! redirects are not followed. Any JSON answer of Crossbar becomes the reply, errors included.

pub(crate) mod call;
pub mod endpoint;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use blackhole_common::wire;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode, Uri,
    body::{Body, Incoming},
    header::{self, HeaderValue},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};
use thiserror::Error;
use tokio::{
    sync::Semaphore,
    time::{Instant as Deadline, timeout_at},
};
use url::Url;

use self::call::Call;
use crate::{
    config::WsConfig,
    metrics::{Metrics, Outcome},
    protocol::token::Token,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An unused connection is closed after this time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Crossbar gave no usable answer; the text is for the client.
#[derive(Debug, Error)]
pub(crate) enum CrossbarError {
    /// `ws.crossbar_url` is not set.
    #[error("api is not available here : the operator has not set ws.crossbar_url")]
    NotConfigured,
    /// No permit in time: `ws.crossbar_concurrency` requests are already running.
    #[error("too many requests to Crossbar at the moment, try again")]
    Busy,
    /// The connection failed.
    #[error("Crossbar is not available, try again")]
    Unavailable,
    /// No answer within `ws.request_timeout`.
    #[error("Crossbar did not answer in time")]
    Timeout,
    /// The answer is larger than `ws.crossbar_max_answer`.
    #[error("the answer of Crossbar is larger than {0} bytes")]
    TooLarge(usize),
    /// The answer is a redirect.
    #[error("Crossbar answered with a redirect, which is not followed")]
    Redirect,
    /// The body is not JSON, for example a proxy's error page or a recording.
    #[error("Crossbar answered with status {0} and no JSON")]
    NotJson(u16),
    /// The request cannot be written as HTTP.
    #[error("the request cannot be sent to Crossbar")]
    Unsendable,
}

impl CrossbarError {
    fn label(&self) -> &'static str {
        match self {
            CrossbarError::NotConfigured => "off",
            CrossbarError::Busy => "busy",
            CrossbarError::Unavailable => "unavailable",
            CrossbarError::Timeout => "timeout",
            CrossbarError::TooLarge(_) => "too_large",
            CrossbarError::Redirect => "redirect",
            CrossbarError::NotJson(_) => "not_json",
            CrossbarError::Unsendable => "unsendable",
        }
    }
}

/// The client that a request comes from.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    /// The session's token.
    pub(crate) token: &'a Token,
    /// The client's address.
    pub(crate) address: IpAddr,
    /// The request's id, if the client gave one.
    pub(crate) request_id: Option<&'a Value>,
}

/// The client of Crossbar.
#[derive(Debug)]
pub(crate) struct Crossbar {
    transport: Transport,
    /// `ws.crossbar_url` without a trailing slash.
    base: String,
    permits: Semaphore,
    timeout: Duration,
    max_answer_bytes: usize,
}

#[derive(Debug)]
enum Transport {
    Plain(Client<HttpConnector, Full<Bytes>>),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl Transport {
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        match self {
            Transport::Plain(client) => client.request(request).await,
            Transport::Tls(client) => client.request(request).await,
        }
    }
}

impl Crossbar {
    /// A client of the Crossbar at `url`, with the limits of `config`.
    ///
    /// # Errors
    /// If `url` is `https` and the system's certificates cannot be read.
    pub(crate) fn new(url: &Url, config: &WsConfig) -> std::io::Result<Crossbar> {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT);
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_nodelay(true);
        let transport = if url.scheme() == "https" {
            http.enforce_http(false);
            let tls = HttpsConnectorBuilder::new().with_native_roots()?;
            Transport::Tls(builder.build(tls.https_only().enable_http1().wrap_connector(http)))
        } else {
            Transport::Plain(builder.build(http))
        };
        Ok(Crossbar {
            transport,
            base: url.as_str().trim_end_matches('/').to_owned(),
            permits: Semaphore::new(config.crossbar_concurrency),
            timeout: config.request_timeout,
            max_answer_bytes: usize::try_from(config.crossbar_max_answer.as_u64()).unwrap_or(usize::MAX),
        })
    }

    /// Passes a request on; returns the JSON text of Crossbar's answer.
    ///
    /// # Errors
    /// If there is no usable answer.
    pub(crate) async fn call(
        &self,
        call: Call,
        caller: &Caller<'_>,
        metrics: &Metrics,
    ) -> Result<Box<RawValue>, CrossbarError> {
        let started = Instant::now();
        let answer = self.exchange(call, caller).await;
        metrics.crossbar_seconds.observe(started.elapsed().as_secs_f64());
        let outcome = match &answer {
            Ok((status, _)) if status.is_success() => "success",
            Ok((status, _)) if status.is_client_error() => "refused",
            Ok(_) => "failed",
            Err(error) => error.label(),
        };
        metrics.crossbar_calls.get_or_create(&Outcome { outcome }).inc();
        answer.map(|(_, body)| body)
    }

    async fn exchange(
        &self,
        call: Call,
        caller: &Caller<'_>,
    ) -> Result<(StatusCode, Box<RawValue>), CrossbarError> {
        let request = self.request(call, caller).ok_or(CrossbarError::Unsendable)?;
        let deadline = Deadline::now() + self.timeout;
        let _permit = timeout_at(deadline, self.permits.acquire())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(CrossbarError::Busy)?;
        let answer = async {
            let answer = self.transport.send(request).await.map_err(|error| {
                tracing::debug!(%error, "crossbar is not available");
                CrossbarError::Unavailable
            })?;
            self.read(answer).await
        };
        timeout_at(deadline, answer).await.map_err(|_| CrossbarError::Timeout)?
    }

    fn request(&self, call: Call, caller: &Caller<'_>) -> Option<Request<Full<Bytes>>> {
        let uri: Uri = format!("{}{}", self.base, call.endpoint).parse().ok()?;
        let mut request = Request::new(Full::new(call.body.clone().unwrap_or_default()));
        *request.method_mut() = call.verb;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        let mut token = HeaderValue::from_str(caller.token.reveal()).ok()?;
        token.set_sensitive(true);
        headers.insert("x-auth-token", token);
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        // Otherwise Crossbar would see the edge's address, which it may trust.
        headers.insert("x-forwarded-for", HeaderValue::from_str(&caller.address.to_string()).ok()?);
        if call.body.is_some() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(id) = caller.request_id {
            let id = id.as_str().map_or_else(|| id.to_string(), wire::header_text);
            headers.insert("x-request-id", HeaderValue::from_str(&id).ok()?);
        }
        Some(request)
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<(StatusCode, Box<RawValue>), CrossbarError> {
        let status = answer.status();
        if status.is_redirection() {
            return Err(CrossbarError::Redirect);
        }
        let too_large = || CrossbarError::TooLarge(self.max_answer_bytes);
        if answer.body().size_hint().lower() > self.max_answer_bytes as u64 {
            return Err(too_large());
        }
        let body =
            Limited::new(answer.into_body(), self.max_answer_bytes).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { too_large() } else { CrossbarError::Unavailable }
            })?;
        let body = body.to_bytes();
        let json = if body.is_empty() && status.is_success() {
            to_raw_value(&Value::Object(serde_json::Map::new()))
        } else {
            serde_json::from_slice(&body)
        };
        json.map(|json| (status, json)).map_err(|_| CrossbarError::NotJson(status.as_u16()))
    }
}
