//! Numbered events of one account, and clients that resume through HAProxy.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use blackhole_dev::simulator::Publisher;
use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::{AMQP_URL, RETRY_INTERVAL, WSS_PORT};
use crate::{accounts::Account, events};

/// Time between two events.
const EVENT_INTERVAL: Duration = Duration::from_millis(10);
/// A client that hears nothing for so long connects again.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Connects with the certificate that is in the file now.
pub(super) async fn connect(certificate: &Path) -> Option<Socket> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).ok()?).ok()?;
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", WSS_PORT)).await.ok()?;
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    let request = "wss://localhost/?view=args".into_client_request().unwrap();
    Some(tokio_tungstenite::client_async(request, tls).await.ok()?.0)
}

/// The account, what was published for it, and how to subscribe.
pub(super) struct World {
    pub(super) account: Account,
    pub(super) token: String,
    /// The file with HAProxy's certificate.
    pub(super) certificate: PathBuf,
    published: AtomicU64,
    stopping: AtomicBool,
    /// Error replies, and how often they came.
    pub(super) refused: Mutex<BTreeMap<String, usize>>,
}

/// What a client has received.
#[derive(Default)]
pub(super) struct Received {
    /// In order of arrival.
    pub(super) numbers: Vec<u64>,
    /// How often it has subscribed.
    pub(super) connections: usize,
}

impl Received {
    pub(super) fn last(&self) -> Option<u64> {
        self.numbers.last().copied()
    }
}

impl World {
    pub(super) fn new(account: Account, token: String, certificate: &Path) -> World {
        World {
            account,
            token,
            certificate: certificate.to_owned(),
            published: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            refused: Mutex::default(),
        }
    }

    /// How many events were published.
    pub(super) fn published(&self) -> u64 {
        self.published.load(Ordering::SeqCst)
    }

    /// Ends [`World::publish`] after the next event.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// Publishes numbered events.
    pub(super) async fn publish(&self) {
        let kazoo = Publisher::connect(AMQP_URL).await.unwrap().persistent();
        let mut ticks = tokio::time::interval(EVENT_INTERVAL);
        while !self.stopping.load(Ordering::SeqCst) {
            ticks.tick().await;
            let number = self.published.load(Ordering::SeqCst);
            let mut event = events::call(&self.account, "CHANNEL_CREATE", "numbered");
            event.body["Number"] = json!(number);
            event.publish(&kazoo).await;
            self.published.store(number + 1, Ordering::SeqCst);
        }
    }

    /// A client that resumes after each end of its connection.
    pub(super) async fn follow(&self, received: &Mutex<Received>) {
        let mut cursor: Option<String> = None;
        loop {
            if let Ok(Some(mut socket)) = timeout(SILENCE_TIMEOUT, connect(&self.certificate)).await {
                self.follow_once(&mut socket, &mut cursor, received).await;
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    async fn follow_once(
        &self,
        socket: &mut Socket,
        cursor: &mut Option<String>,
        received: &Mutex<Received>,
    ) {
        let mut data = json!({ "account_id": self.account.id, "bindings": ["call.*.*"] });
        if let Some(cursor) = &*cursor {
            data["since"] = json!(cursor);
        }
        let request =
            json!({ "action": "subscribe", "auth_token": self.token, "request_id": "1", "data": data });
        if socket.send(Message::text(request.to_string())).await.is_err() {
            return;
        }
        while let Ok(Some(Ok(message))) = timeout(SILENCE_TIMEOUT, socket.next()).await {
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if frame["action"] == "event" {
                *cursor = frame["cursor"].as_str().map(str::to_owned);
                received.lock().numbers.push(frame["args"]["Number"].as_u64().unwrap());
            } else if frame["status"] == "success" {
                assert_ne!(frame["data"]["recovered"], json!(false), "{frame}");
                received.lock().connections += 1;
                if cursor.is_none() {
                    *cursor = frame["data"]["cursor"].as_str().map(str::to_owned);
                }
            } else {
                *self.refused.lock().entry(frame["data"].to_string()).or_default() += 1;
                return;
            }
        }
    }
}
