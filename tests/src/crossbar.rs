//! An HTTP server in Crossbar's place, which records what it is asked.

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

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query as they came.
    pub target: String,
    /// All headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: String,
}

impl Asked {
    /// A header's text, if it is there once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok()?;
        values.next().is_none().then_some(value)
    }
}

/// The server. What it answers is told by the path:
///
/// | path ends with | answer |
/// |---|---|
/// | `/status/N` | status N, and JSON that says so |
/// | `/page` | status 502 and HTML |
/// | `/empty` | status 204 |
/// | `/redirect` | status 302 to `/v2/secret` of the same server |
/// | `/bytes/N` | a JSON text of N bytes |
/// | `/endless` | JSON that does not end |
/// | `/silence` | nothing |
/// | `/broken` | the connection's end |
/// | `/hold` | 200 when [`Crossbar::let_go`] is called |
/// | `/odd` | JSON that readers of JSON change |
/// | anything else | 200 |
#[derive(Clone)]
pub struct Crossbar {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    held: AtomicUsize,
    go: Notify,
}

/// What `/odd` is answered with.
pub const ODD: &str = r#"{ "b": 1.10, "a": 1e400, "n": null, "a": "\u00fc" }"#;

type Body = BoxBody<Bytes, Infallible>;

impl Crossbar {
    /// Starts one, which ends with the test's runtime.
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
                    let service = service_fn(|request| serving.answer(request));
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

    /// What was asked since this was called last.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock())
    }

    /// How many requests are held.
    pub fn held(&self) -> usize {
        self.shared.held.load(Ordering::SeqCst)
    }

    /// Lets one held request go.
    pub fn let_go(&self) {
        self.shared.go.notify_one();
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        self.shared.asked.lock().push(Asked {
            method: parts.method.to_string(),
            target: parts.uri.to_string(),
            headers: parts.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        let path = parts.uri.path().to_owned();
        let words: Vec<&str> = path.rsplit('/').collect();
        let whole = |status: u16, body: String| {
            let body = Full::new(Bytes::from(body)).boxed();
            Response::builder().status(status).body(body).map_err(std::io::Error::other)
        };
        match words.as_slice() {
            [number, "status", ..] => {
                whole(number.parse().unwrap(), format!("{{\"status\":\"error\",\"error\":\"{number}\"}}"))
            }
            ["page", ..] => whole(502, "<html>bad gateway</html>".into()),
            ["empty", ..] => whole(204, String::new()),
            ["redirect", ..] => {
                let mut response = whole(302, "{}".into())?;
                let location = format!("{}/v2/secret", self.url()).parse().unwrap();
                response.headers_mut().insert("location", location);
                Ok(response)
            }
            [number, "bytes", ..] => {
                let number: usize = number.parse().unwrap();
                whole(200, format!("\"{}\"", "x".repeat(number - 2)))
            }
            ["endless", ..] => {
                let piece = || Ok(Frame::data(Bytes::from_static(&[b'1'; 8192])));
                let body = StreamBody::new(stream::repeat_with(piece));
                Ok(Response::new(BodyExt::boxed(body)))
            }
            ["silence", ..] => std::future::pending().await,
            ["broken", ..] => Err(std::io::Error::other("broken off")),
            ["hold", ..] => {
                self.shared.held.fetch_add(1, Ordering::SeqCst);
                self.shared.go.notified().await;
                self.shared.held.fetch_sub(1, Ordering::SeqCst);
                whole(200, "{\"data\":\"held\"}".into())
            }
            ["odd", ..] => whole(200, ODD.into()),
            _ => whole(200, "{\"data\":{},\"status\":\"success\"}".into()),
        }
    }
}
