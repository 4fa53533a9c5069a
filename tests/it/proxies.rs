//! nginx, Caddy and Traefik with TLS in front of two edges, with the configurations of `deploy/`.

use std::{net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use blackhole_dev::{
    http, install, ports,
    process::Spec,
    server::{Ready, Server},
    workspace::{self, RunDir},
};
use blackhole_tests::{
    accounts::Account,
    event_stream::{EventStream, members},
    events, soon,
    stack::Stack,
};
use futures_util::{SinkExt, StreamExt, stream::FuturesUnordered};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};
use tokio_util::task::AbortOnDropHandle;

use crate::scaling::Edges;

const SESSIONS: usize = 1000;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A subscribed session. A task reads it, so that pings are answered.
struct Session {
    frames: mpsc::Receiver<Value>,
    _reader: AbortOnDropHandle<()>,
}

impl Session {
    fn new(mut socket: Socket) -> Session {
        let (sender, frames) = mpsc::channel(16);
        let reader = tokio::spawn(async move {
            while let Some(frame) = text_frame(&mut socket).await {
                let _ = sender.send(frame).await;
            }
        });
        Session { frames, _reader: AbortOnDropHandle::new(reader) }
    }

    async fn frame(&mut self) -> Value {
        soon("a frame", self.frames.recv()).await.expect("the session is open")
    }
}

/// A proxy in front of two edges.
struct Proxied {
    edges: Edges,
    dir: RunDir,
    port: u16,
    connector: TlsConnector,
    _proxy: Option<Server>,
}

impl Proxied {
    async fn new(name: &str) -> Proxied {
        let mut edges = Edges::new();
        edges.grow_to(2).await;
        let dir = RunDir::create(name).unwrap();
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.cert.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(config));
        Proxied { edges, dir, port: ports::free().unwrap(), connector, _proxy: None }
    }

    /// Copies a file of `deploy/` with the addresses and paths of this test.
    fn configure(&self, file: &str, more: &[(&str, &str)]) -> String {
        let text = std::fs::read_to_string(workspace::root().unwrap().join("deploy").join(file)).unwrap();
        let dir = self.dir.path().display().to_string();
        let [first, second] = self.edges.addresses()[..] else { panic!("two edges") };
        let mut replacements = vec![
            ("10.0.0.5:5555", format!("{first}:{}", self.edges.ws)),
            ("10.0.0.6:5555", format!("{second}:{}", self.edges.ws)),
            ("9403", self.edges.admin.to_string()),
            ("7777", self.port.to_string()),
            ("/etc/blackhole/tls", dir.clone()),
            ("/etc/traefik", dir.clone()),
            ("/var/log/nginx", dir.clone()),
            ("/run/nginx.pid", format!("{dir}/nginx.pid")),
        ];
        replacements.extend(more.iter().map(|(from, to)| (*from, (*to).to_owned())));
        let text = replacements.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let path = self.dir.path().join(Path::new(file).file_name().unwrap());
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    async fn start(&mut self, spec: Spec) {
        let spec = spec.log(self.dir.path().join("proxy.log"));
        let ready = Ready::Port((Ipv4Addr::LOCALHOST, self.port).into());
        self._proxy = Some(Server::start("proxy", spec, ready, Duration::from_secs(20)).await.unwrap());
        // Proxies that check find the edges ready a little later.
        blackhole_tests::eventually("a session", || async {
            self.try_session(Ipv4Addr::LOCALHOST).await.is_some()
        })
        .await;
    }

    async fn connection(&self, from: Ipv4Addr) -> Option<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let tcp = socket.connect((Ipv4Addr::LOCALHOST, self.port).into()).await.ok()?;
        let name = ServerName::try_from("localhost").unwrap();
        self.connector.connect(name, tcp).await.ok()
    }

    async fn try_session(&self, from: Ipv4Addr) -> Option<Socket> {
        let tls = self.connection(from).await?;
        let mut request = "wss://localhost/?view=args".into_client_request().unwrap();
        // It is not believed.
        request.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        let (session, _) = tokio_tungstenite::client_async(request, tls).await.ok()?;
        Some(session)
    }

    async fn session(&self, from: Ipv4Addr) -> Socket {
        soon("a session", self.try_session(from)).await.expect("the proxy passes the upgrade on")
    }

    async fn subscribed(&self, account: &Account, from: Ipv4Addr) -> Session {
        let mut socket = self.session(from).await;
        let data = json!({ "account_id": account.id, "bindings": ["call.*.*"] });
        let request = json!({
            "action": "subscribe", "auth_token": account.token(), "request_id": "1", "data": data,
        });
        socket.send(Message::text(request.to_string())).await.unwrap();
        let mut session = Session::new(socket);
        let reply = session.frame().await;
        assert_eq!(reply["status"], "success", "{reply}");
        session
    }

    /// What every proxy has to do.
    async fn exercise(&mut self) {
        let account = Account::fresh();
        let mut connecting = FuturesUnordered::new();
        let mut sessions = Vec::new();
        for _ in 0..SESSIONS {
            if connecting.len() >= 32 {
                sessions.extend(connecting.next().await);
            }
            connecting.push(self.subscribed(&account, Ipv4Addr::LOCALHOST));
        }
        while let Some(session) = connecting.next().await {
            sessions.push(session);
        }
        drop(connecting);
        let own = self.subscribed(&account, Ipv4Addr::new(127, 0, 0, 7)).await;
        sessions.push(own);
        let spread = self.edges.sessions().await;
        assert!(spread.iter().all(|count| *count > SESSIONS as f64 / 4.0), "{spread:?}");

        let mut sources = Vec::new();
        for address in self.edges.addresses() {
            let listed = http::get(&format!("{address}:{}", self.edges.admin), "/sessions").await.unwrap();
            let listed: Value = serde_json::from_str(&listed.body).unwrap();
            let listed = listed["sessions"].as_array().unwrap().clone();
            sources.extend(listed.into_iter().map(|session| session["source"].as_str().unwrap().to_owned()));
        }
        assert_eq!(sources.iter().filter(|source| *source == "127.0.0.7").count(), 1);
        assert!(sources.iter().all(|source| source.starts_with("127.0.0.")), "a forged address counts");

        let tls = self.connection(Ipv4Addr::LOCALHOST).await.unwrap();
        let query = members(&account, &["call.*.*"], &[("auth_token", &account.token())]);
        let mut stream = EventStream::ask_over(tls, &query, &[]).await;
        stream.reply().await;

        // Silent for longer than the test's time-outs, but for pings.
        let silence = async {
            let mut reading: FuturesUnordered<_> =
                sessions.iter_mut().map(|session| session.frames.recv()).collect();
            reading.next().await
        };
        assert!(tokio::time::timeout(Duration::from_secs(8), silence).await.is_err(), "nothing ends");

        let publisher = Stack::shared().publisher().await;
        events::call(&account, "CHANNEL_CREATE", "to-all").publish(&publisher).await;
        for session in &mut sessions {
            assert_eq!(session.frame().await["args"]["Call-ID"], "to-all");
        }
        assert_eq!(stream.event().await["args"]["Call-ID"], "to-all", "it is not kept back");
        drop((sessions, stream));

        // An edge goes: new sessions are on the other one, at once.
        self.edges.shrink_to(1).await;
        for _ in 0..4 {
            self.session(Ipv4Addr::LOCALHOST).await;
        }
    }
}

/// The next text frame; `None` at the end. Reading also answers pings.
async fn text_frame(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await? {
            Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).unwrap()),
            Ok(Message::Ping(_) | Message::Pong(_)) => {}
            _ => return None,
        }
    }
}

#[tokio::test]
async fn nginx_passes_a_thousand_sessions_on() {
    let mut proxied = Proxied::new("nginx").await;
    // One process, in the foreground, by anybody; and time-outs that the silence of the test exceeds.
    let foreground = "worker_processes 1; daemon off; master_process off;";
    let config =
        proxied.configure("nginx/nginx.conf", &[("worker_processes auto;", foreground), ("2h;", "6s;")]);
    let spec = Spec::new(install::find(install::NGINX).unwrap()).args(["-c", &config, "-e", "stderr"]);
    proxied.start(spec).await;
    proxied.exercise().await;
}

#[tokio::test]
async fn caddy_passes_a_thousand_sessions_on() {
    let mut proxied = Proxied::new("caddy").await;
    let config = proxied.configure("caddy/Caddyfile", &[]);
    let spec = Spec::new(install::find(install::CADDY).unwrap())
        .args(["run", "--adapter", "caddyfile", "--config", &config])
        .env("HOME", proxied.dir.path());
    proxied.start(spec).await;
    proxied.exercise().await;
}

#[tokio::test]
#[ignore = "Debian has no package of Traefik: DEV_TRAEFIK names the program"]
async fn traefik_passes_a_thousand_sessions_on() {
    let mut proxied = Proxied::new("traefik").await;
    proxied.configure("traefik/edges.yaml", &[]);
    let config = proxied.configure("traefik/traefik.yaml", &[]);
    let program = std::env::var_os("DEV_TRAEFIK").expect("DEV_TRAEFIK names the program");
    proxied.start(Spec::new(program).arg(format!("--configFile={config}"))).await;
    proxied.exercise().await;
}
