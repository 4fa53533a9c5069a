//! Asks CouchDB over HTTP. Only `GET`: nothing here can change a document.
//!
//! Several servers are tried in turn; the one that answered last is asked first. While none answers, further questions fail
//! at once for a moment, so that nobody waits for a timeout that another has just waited for.

mod error;

pub use error::CouchError;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use url::Url;

use super::config::CouchDbConfig;
use crate::http::{self, HttpClient};

/// Questions at once. More wait, within their time limit. With 2 s for an answer, 10,000 questions a minute are 333 at once.
const MAX_QUESTIONS: usize = 400;
/// CouchDB's own limit for a document is 8 MB; a page of accounts is smaller than this, or asked for in parts.
const MAX_ANSWER_BYTES: usize = 32 * 1024 * 1024;
/// How long further questions fail after no server has answered one.
const PAUSE: Duration = Duration::from_millis(500);
/// What stays as it is in a path segment or a query value.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A client of CouchDB.
#[derive(Debug)]
pub struct Client {
    servers: Vec<Server>,
    /// The index of the server that is asked first.
    first: AtomicUsize,
    http: HttpClient,
    timeout: Duration,
    permits: Semaphore,
    failed: Mutex<Option<(Instant, CouchError)>>,
}

#[derive(Debug)]
struct Server {
    /// The URL, without user and password, and without a slash at the end.
    base: String,
    authorization: Option<HeaderValue>,
}

impl Client {
    /// A client for these servers. Does not connect.
    ///
    /// # Errors
    /// If a URL or the CA file is not usable.
    pub fn new(config: &CouchDbConfig) -> Result<Client, String> {
        let servers = config.urls()?.into_iter().map(|url| Server::new(url, config)).collect::<Vec<_>>();
        let is_used = servers.iter().any(|server| server.base.starts_with("https:"));
        let http = http::client(is_used, config.ca_file.as_deref(), config.timeout)?;
        Ok(Client {
            servers,
            first: AtomicUsize::new(0),
            http,
            timeout: config.timeout,
            permits: Semaphore::new(MAX_QUESTIONS),
            failed: Mutex::new(None),
        })
    }

    /// The servers, without user and password.
    pub fn servers(&self) -> impl Iterator<Item = &str> {
        self.servers.iter().map(|server| server.base.as_str())
    }

    /// The answer to `GET path`; `None` if it is 404.
    ///
    /// # Errors
    /// If there is no usable answer.
    pub async fn get(&self, path: &str) -> Result<Option<Bytes>, CouchError> {
        if let Some(error) = self.recent_failure() {
            return Err(error);
        }
        let result = self.ask(path).await;
        *self.failed.lock() = match &result {
            Err(error) if error.is_of_server() => Some((Instant::now(), error.clone())),
            _ => None,
        };
        result
    }

    fn recent_failure(&self) -> Option<CouchError> {
        let failed = self.failed.lock();
        failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE).map(|(_, error)| error.clone())
    }

    async fn ask(&self, path: &str) -> Result<Option<Bytes>, CouchError> {
        let too_many = || CouchError::Timeout { server: self.servers().collect::<Vec<_>>().join(", ") };
        let permit = timeout_at(Instant::now() + self.timeout, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(too_many()) };
        let mut failure = None;
        for (index, server) in self.in_turn() {
            let asked = timeout_at(Instant::now() + self.timeout, self.ask_one(server, path)).await;
            match asked.unwrap_or_else(|_| Err(server.timeout())) {
                Err(error) if error.is_of_server() => failure = failure.or(Some(error)),
                answer => {
                    self.first.store(index, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(failure.unwrap_or_else(no_server))
    }

    async fn ask_one(&self, server: &Server, path: &str) -> Result<Option<Bytes>, CouchError> {
        let response = self.send(server, path).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let response = server.succeeded(response, path)?;
        match Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await {
            Ok(body) => Ok(Some(body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(CouchError::TooLarge { path: path.to_owned() })
            }
            Err(error) => Err(server.unreachable(&*error)),
        }
    }

    /// The body of the answer to `GET path`, which may never end.
    ///
    /// # Errors
    /// If it does not begin `within` this time, or that of other questions if that is longer.
    pub async fn stream(&self, path: &str, within: Duration) -> Result<Incoming, CouchError> {
        let within = within.max(self.timeout);
        let mut failure = None;
        for (index, server) in self.in_turn() {
            let began = timeout_at(Instant::now() + within, self.send(server, path)).await;
            let began = began.unwrap_or_else(|_| Err(server.timeout()));
            match began.and_then(|response| server.succeeded(response, path)) {
                Err(error) if error.is_of_server() => failure = failure.or(Some(error)),
                answer => {
                    self.first.store(index, Ordering::Relaxed);
                    return answer.map(Response::into_body);
                }
            }
        }
        Err(failure.unwrap_or_else(no_server))
    }

    /// All servers, from the one that answered last.
    fn in_turn(&self) -> impl Iterator<Item = (usize, &Server)> + Send {
        let first = self.first.load(Ordering::Relaxed);
        self.servers.iter().enumerate().cycle().skip(first).take(self.servers.len())
    }

    async fn send(&self, server: &Server, path: &str) -> Result<Response<Incoming>, CouchError> {
        let mut request = Request::new(Full::default());
        let malformed = || CouchError::Malformed { path: path.to_owned(), reason: "not a path".into() };
        *request.uri_mut() = format!("{}{path}", server.base).parse().map_err(|_| malformed())?;
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, */*"));
        if let Some(authorization) = &server.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        self.http.request(request).await.map_err(|error| server.unreachable(&error))
    }
}

impl Server {
    fn new(mut url: Url, config: &CouchDbConfig) -> Server {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let in_url = (!url.username().is_empty())
            .then(|| (decoded(url.username()), decoded(url.password().unwrap_or_default())));
        let apart = config.user.clone().map(|user| {
            (user, config.password.as_ref().map(|password| password.reveal().to_owned()).unwrap_or_default())
        });
        let authorization = apart.or(in_url).and_then(|(user, password)| {
            let text = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
            let mut value = HeaderValue::try_from(text).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        // Both fail only for URLs that can have no user.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        Server { base: url.as_str().trim_end_matches('/').to_owned(), authorization }
    }

    fn succeeded(&self, response: Response<Incoming>, path: &str) -> Result<Response<Incoming>, CouchError> {
        match response.status() {
            StatusCode::OK => Ok(response),
            status => Err(CouchError::Status {
                server: self.base.clone(),
                path: path.to_owned(),
                status: status.as_u16(),
            }),
        }
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> CouchError {
        CouchError::Unreachable { server: self.base.clone(), reason: http::innermost(error) }
    }

    fn timeout(&self) -> CouchError {
        CouchError::Timeout { server: self.base.clone() }
    }
}

/// The configuration's check makes sure that there is one.
fn no_server() -> CouchError {
    CouchError::Unreachable { server: "no server".into(), reason: "auth.couchdb.url is empty".into() }
}

/// A text as one segment of a path, or one value of a query.
pub fn encoded(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

/// The account's own database as a path segment: `account%2F4b%2F31%2Fdd1d…`. `None` if the id is not one of KAZOO's.
pub fn account_database(account_id: &str) -> Option<String> {
    if account_id.len() != 32 || !account_id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (first, rest) = account_id.split_at(2);
    let (second, rest) = rest.split_at(2);
    Some(format!("account%2F{first}%2F{second}%2F{rest}"))
}
