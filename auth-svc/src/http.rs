//! Asks other servers over HTTP: with a time limit, a largest answer, so many questions at once, and no redirect followed.

mod tls;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use thiserror::Error;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use url::Url;

/// An unused connection is closed after this time, before HAProxy does it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(8);

/// A client with a pool of connections. It follows no redirects.
pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts the certificates in `ca_file`, or else the system's. Reads neither unless TLS `is_used`.
///
/// # Errors
/// If the file has no usable certificate.
pub(crate) fn client(
    is_used: bool,
    ca_file: Option<&Path>,
    connect_timeout: Duration,
) -> Result<HttpClient, String> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls::config(is_used, ca_file)?)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT);
    Ok(builder.build(connector))
}

/// What the operating system has reported, or else what is the innermost reason.
pub(crate) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Reads an HTTP URL without user, password, query and fragment.
///
/// # Errors
/// If it is another. The error does not contain it.
pub fn plain_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).ok().filter(|url| {
        let is_plain = url.query().is_none() && url.fragment().is_none() && url.has_host();
        let has_user = !url.username().is_empty() || url.password().is_some();
        is_plain && !has_user && matches!(url.scheme(), "http" | "https")
    });
    url.ok_or_else(|| {
        "must be a URL such as https://idp.example.com/keys, without user, password and query".into()
    })
}

/// Why a server gave no usable answer. Neither tokens nor what was answered are in it.
#[derive(Clone, Debug, Error)]
pub enum HttpError {
    /// The connection failed.
    #[error("{url} is not reachable: {reason}")]
    Unreachable {
        /// What was asked, without its query.
        url: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{url} does not answer in time")]
    Timeout {
        /// What was asked.
        url: String,
    },
    /// A status that says that the question cannot be answered. A redirect is one.
    #[error("{url} answers with status {status}{}", if matches!(status, 300..=399) { ": redirects are not followed" } else { "" })]
    Status {
        /// What was asked.
        url: String,
        /// The status.
        status: u16,
    },
    /// The answer is larger than any that is needed.
    #[error("the answer of {url} is larger than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The largest size.
        limit: usize,
    },
    /// The answer is not what was asked for.
    #[error("the answer of {url} is not usable: {reason}")]
    Malformed {
        /// What was asked.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl HttpError {
    /// A fixed label for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            HttpError::Unreachable { .. } => "unreachable",
            HttpError::Timeout { .. } => "timeout",
            HttpError::Status { .. } => "status",
            HttpError::TooLarge { .. } => "too_large",
            HttpError::Malformed { .. } => "malformed",
        }
    }
}

/// The limits of questions to a server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long an answer may take, also while it waits for its turn.
    pub timeout: Duration,
    /// The size of an answer.
    pub answer_bytes: usize,
    /// Questions at once.
    pub at_once: usize,
}

/// Asks a server.
#[derive(Debug)]
pub struct Asker {
    http: HttpClient,
    limits: Limits,
    permits: Semaphore,
}

impl Asker {
    /// Does not connect.
    ///
    /// # Errors
    /// If the CA file is not usable.
    pub fn new(uses_tls: bool, ca_file: Option<&Path>, limits: Limits) -> Result<Asker, String> {
        let http = client(uses_tls, ca_file, limits.timeout)?;
        Ok(Asker { http, limits, permits: Semaphore::new(limits.at_once) })
    }

    /// The status and the body of the answer.
    ///
    /// # Errors
    /// If there is none in time, or it is too large.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), HttpError> {
        let url = shown(request.uri());
        match timeout_at(Instant::now() + self.limits.timeout, self.answer(request, &url)).await {
            Ok(answer) => answer,
            Err(_) => Err(HttpError::Timeout { url }),
        }
    }

    async fn answer(
        &self,
        request: Request<Full<Bytes>>,
        url: &str,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let unreachable = |reason| HttpError::Unreachable { url: url.to_owned(), reason };
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|error| unreachable(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| unreachable(innermost(&error)))?;
        let (status, limit) = (response.status(), self.limits.answer_bytes);
        match Limited::new(response.into_body(), limit).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(HttpError::TooLarge { url: url.to_owned(), limit })
            }
            Err(error) => Err(unreachable(innermost(&*error))),
        }
    }
}

/// The URL without its query.
fn shown(uri: &Uri) -> String {
    let part = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let authority = uri.authority().map(hyper::http::uri::Authority::as_str);
    format!("{}://{}{}", part(uri.scheme_str()), part(authority), uri.path())
}
