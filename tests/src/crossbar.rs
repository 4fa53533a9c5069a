//! An HTTP server that stands in for Crossbar and records its requests.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::Notify};

/// A recorded request.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The method.
    pub method: String,
    /// Path and query, unchanged.
    pub target: String,
    /// All headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: String,
}

impl RecordedRequest {
    /// The value of a header that occurs exactly once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }
}

/// The server. The path determines its response:
///
/// | path ends with | response |
/// |---|---|
/// | `/status/N` | status N, and JSON that contains it |
/// | `/page` | status 502 and HTML |
/// | `/empty` | status 204 |
/// | `/redirect` | status 302 to `/v2/secret` on the same server |
/// | `/bytes/N` | a JSON text of N bytes |
/// | `/endless` | JSON without an end |
/// | `/silence` | none |
/// | `/broken` | the connection is closed |
/// | `/hold` | 200 after a call of [`Crossbar::release_one`] |
/// | `/odd` | JSON that most parsers would not reproduce |
/// | `/users` | a list of one user, `ann` |
/// | anything else | 200 |
#[derive(Clone)]
pub struct Crossbar {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: Mutex<Vec<RecordedRequest>>,
    held: AtomicUsize,
    released: Notify,
}

/// The response to `/odd`.
pub const ODD_JSON: &str = r#"{ "b": 1.10, "a": 1e400, "n": null, "a": "\u00fc" }"#;

type Body = BoxBody<Bytes, Infallible>;

impl Crossbar {
    /// Starts a server, which ends with the test's runtime.
    pub async fn start() -> Crossbar {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let crossbar = Crossbar { address, shared };
        let serving = crossbar.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| serving.respond(request));
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        crossbar
    }

    /// Its URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests since the last call.
    pub fn take_requests(&self) -> Vec<RecordedRequest> {
        std::mem::take(&mut self.shared.requests.lock())
    }

    /// The number of requests to `/hold` that wait for their response.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Responds to one request to `/hold`.
    pub fn release_one(&self) {
        self.shared.released.notify_one();
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        self.shared.requests.lock().push(RecordedRequest {
            method: parts.method.to_string(),
            target: parts.uri.to_string(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        let path = parts.uri.path().to_owned();
        let words: Vec<&str> = path.rsplit('/').collect();
        let complete = |status: u16, body: String| {
            let body = Full::new(Bytes::from(body)).boxed();
            Response::builder().status(status).body(body).map_err(std::io::Error::other)
        };
        match words.as_slice() {
            [number, "status", ..] => {
                complete(number.parse().unwrap(), format!("{{\"status\":\"error\",\"error\":\"{number}\"}}"))
            }
            ["page", ..] => complete(502, "<html>bad gateway</html>".into()),
            ["empty", ..] => complete(204, String::new()),
            ["redirect", ..] => {
                let mut response = complete(302, "{}".into())?;
                let location = format!("{}/v2/secret", self.url()).parse().unwrap();
                response.headers_mut().insert("location", location);
                Ok(response)
            }
            [number, "bytes", ..] => {
                let number: usize = number.parse().unwrap();
                complete(200, format!("\"{}\"", "x".repeat(number - 2)))
            }
            ["endless", ..] => {
                let chunk = || Ok(Frame::data(Bytes::from_static(&[b'1'; 8192])));
                let body = StreamBody::new(stream::repeat_with(chunk));
                Ok(Response::new(BodyExt::boxed(body)))
            }
            ["silence", ..] => std::future::pending().await,
            ["broken", ..] => Err(std::io::Error::other("connection broken off")),
            ["hold", ..] => {
                self.shared.held.fetch_add(1, Ordering::SeqCst);
                self.shared.released.notified().await;
                self.shared.held.fetch_sub(1, Ordering::SeqCst);
                complete(200, "{\"data\":\"held\"}".into())
            }
            ["users", ..] => complete(200, "{\"data\":[{\"id\":\"ann\"}],\"status\":\"success\"}".into()),
            ["odd", ..] => complete(200, ODD_JSON.into()),
            _ => complete(200, "{\"data\":{},\"status\":\"success\"}".into()),
        }
    }
}
