//! Crossbar, KAZOO's HTTP API, which the action `api` replays requests on to.
//!
//! A client says method, path and body, and nothing of where they go: they go to `ws.crossbar_url`, with the session's
//! own token. Redirects are not followed. Whatever Crossbar answers in JSON is the reply, refusals included.

pub(crate) mod call;
mod endpoint;

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
/// A connection that is not used for so long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// There is no answer to replay on; the text is what the client reads.
#[derive(Debug, Error)]
pub(crate) enum CrossbarError {
    /// Nothing is configured.
    #[error("api is not available here : the operator has not set ws.crossbar_url")]
    Off,
    /// So many requests are under way that this one did not have its turn in time.
    #[error("too many requests to Crossbar at the moment, try again")]
    Busy,
    /// No connection, or one that broke.
    #[error("Crossbar is not available, try again")]
    Away,
    /// Nothing came within `ws.request_timeout`.
    #[error("Crossbar did not answer in time")]
    Silent,
    /// More than `ws.crossbar_max_answer`.
    #[error("the answer of Crossbar is larger than {0} bytes")]
    TooLarge(usize),
    /// It points elsewhere.
    #[error("Crossbar answered with a redirect, which is not followed")]
    Redirect,
    /// A body that is no JSON: a proxy's page, a recording.
    #[error("Crossbar answered with status {0} and no JSON")]
    NotJson(u16),
    /// The request cannot be written as HTTP.
    #[error("the request cannot be sent to Crossbar")]
    Unsendable,
}

impl CrossbarError {
    fn label(&self) -> &'static str {
        match self {
            CrossbarError::Off => "off",
            CrossbarError::Busy => "busy",
            CrossbarError::Away => "unavailable",
            CrossbarError::Silent => "timeout",
            CrossbarError::TooLarge(_) => "too_large",
            CrossbarError::Redirect => "redirect",
            CrossbarError::NotJson(_) => "not_json",
            CrossbarError::Unsendable => "unsendable",
        }
    }
}

/// Who a request is passed on for.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    /// The session's token.
    pub token: &'a Token,
    /// The client's address.
    pub address: IpAddr,
    /// The request's id, where the client gave one.
    pub request_id: Option<&'a Value>,
}

/// The way to Crossbar.
#[derive(Debug)]
pub(crate) struct Crossbar {
    transport: Transport,
    /// Scheme, authority and what all paths begin with; no slash at the end.
    base: String,
    places: Semaphore,
    timeout: Duration,
    most_bytes: usize,
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
    /// The way to `url`, with the limits of `config`.
    ///
    /// # Errors
    /// When the system's certificates, which `https` needs, cannot be read.
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
            places: Semaphore::new(config.crossbar_concurrency),
            timeout: config.request_timeout,
            most_bytes: usize::try_from(config.crossbar_max_answer.as_u64()).unwrap_or(usize::MAX),
        })
    }

    /// Passes a request on and gives Crossbar's answer, a JSON text.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) async fn call(
        &self,
        call: Call,
        caller: &Caller<'_>,
        metrics: &Metrics,
    ) -> Result<Box<RawValue>, CrossbarError> {
        let begun = Instant::now();
        let answer = self.ask(call, caller).await;
        metrics.crossbar_seconds.observe(begun.elapsed().as_secs_f64());
        let outcome = match &answer {
            Ok((status, _)) if status.is_success() => "success",
            Ok((status, _)) if status.is_client_error() => "refused",
            Ok(_) => "failed",
            Err(error) => error.label(),
        };
        metrics.crossbar_calls.get_or_create(&Outcome { outcome }).inc();
        answer.map(|(_, body)| body)
    }

    async fn ask(
        &self,
        call: Call,
        caller: &Caller<'_>,
    ) -> Result<(StatusCode, Box<RawValue>), CrossbarError> {
        let request = self.request(call, caller).ok_or(CrossbarError::Unsendable)?;
        let deadline = Deadline::now() + self.timeout;
        let _place = timeout_at(deadline, self.places.acquire())
            .await
            .ok()
            .and_then(Result::ok)
            .ok_or(CrossbarError::Busy)?;
        let exchange = async {
            let answer = self.transport.send(request).await.map_err(|error| {
                tracing::debug!(%error, "crossbar is not available");
                CrossbarError::Away
            })?;
            self.read(answer).await
        };
        timeout_at(deadline, exchange).await.map_err(|_| CrossbarError::Silent)?
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
        // Crossbar takes the connection's address for the client's otherwise, which may be one that it trusts.
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
        let too_large = || CrossbarError::TooLarge(self.most_bytes);
        if answer.body().size_hint().lower() > self.most_bytes as u64 {
            return Err(too_large());
        }
        let body = Limited::new(answer.into_body(), self.most_bytes).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() { too_large() } else { CrossbarError::Away }
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
