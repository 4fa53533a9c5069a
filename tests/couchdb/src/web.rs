//! An HTTP server whose answers a test decides, for what stands in for issuers and Crossbar.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The header `X-Auth-Token`.
    pub token: Option<String>,
    /// The body.
    pub body: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// JSON.
    pub fn json(status: u16, value: &Value) -> Answer {
        Answer { status, location: None, body: value.to_string().into_bytes() }
    }

    /// Any text.
    pub fn text(status: u16, text: &str) -> Answer {
        Answer { status, location: None, body: text.as_bytes().to_vec() }
    }
}

type Answers = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A running server. Clones are the same server.
#[derive(Clone)]
pub struct Web {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    answers: Box<Answers>,
    asked: Mutex<Vec<Asked>>,
    waiting: AtomicUsize,
    faults: Mutex<Faults>,
}

#[derive(Default)]
struct Faults {
    delay: Duration,
    is_down: bool,
    connections: CancellationToken,
}

impl Web {
    /// Starts a server with these answers. It ends with the runtime.
    pub async fn start(answers: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shared = Arc::new(Shared {
            answers: Box::new(answers),
            asked: Mutex::default(),
            waiting: AtomicUsize::new(0),
            faults: Mutex::default(),
        });
        let web = Web { address: listener.local_addr().unwrap(), shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let ends = {
                    let faults = shared.faults.lock();
                    if faults.is_down {
                        continue;
                    }
                    faults.connections.clone()
                };
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = ends.run_until_cancelled(connection).await;
                });
            }
        });
        web
    }

    /// The server's URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers come after this time.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.lock().delay = delay;
    }

    /// Closes all connections, and takes no further ones.
    pub fn stop(&self) {
        let mut faults = self.shared.faults.lock();
        faults.is_down = true;
        std::mem::take(&mut faults.connections).cancel();
    }

    /// Takes connections again.
    pub fn go_on(&self) {
        self.shared.faults.lock().is_down = false;
    }

    /// The number of answers that are on their way.
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    /// The requests since the last call.
    pub fn take_requests(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.asked.lock())
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let token = parts.headers.get("x-auth-token").and_then(|token| token.to_str().ok());
    let asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        token: token.map(str::to_owned),
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    shared.asked.lock().push(asked.clone());
    let delay = shared.faults.lock().delay;
    if !delay.is_zero() {
        shared.waiting.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(delay).await;
        shared.waiting.fetch_sub(1, Ordering::SeqCst);
    }
    let Answer { status, location, body } = (shared.answers)(&asked);
    let mut builder = Response::builder().status(status);
    if let Some(location) = location {
        builder = builder.header("location", location);
    }
    Ok(builder.body(Full::new(Bytes::from(body))).unwrap())
}
