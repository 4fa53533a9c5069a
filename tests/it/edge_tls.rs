//! TLS on the edge itself.

use std::{net::Ipv4Addr, process::Command, sync::Arc, time::Duration};

use blackhole_dev::{ports, workspace::RunDir};
use blackhole_tests::{
    accounts::Account,
    client::Client,
    event_stream::{EventStream, members},
    events, eventually,
    raw::RawClient,
    soon,
    stack::{self, Edge, Stack},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
        crypto::ring,
        pki_types::{CertificateDer, ServerName},
        version::{TLS12, TLS13},
    },
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

/// The files of a certificate.
struct Files {
    dir: RunDir,
}

impl Files {
    fn new(name: &str) -> (Files, CertificateDer<'static>) {
        let files = Files { dir: RunDir::create(name).unwrap() };
        let certificate = files.renew();
        (files, certificate)
    }

    /// Writes another certificate and key.
    fn renew(&self) -> CertificateDer<'static> {
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(self.path("cert.pem"), certificate.cert.pem()).unwrap();
        std::fs::write(self.path("key.pem"), certificate.signing_key.serialize_pem()).unwrap();
        certificate.cert.der().clone()
    }

    fn path(&self, file: &str) -> String {
        self.dir.path().join(file).display().to_string()
    }
}

/// An edge that speaks TLS on a port of its own, beside the plain one.
async fn edge(name: &str, files: &Files, settings: &[(&str, &str)]) -> (Edge, u16) {
    let port = ports::free().unwrap();
    let (cert, key, listen) = (files.path("cert.pem"), files.path("key.pem"), format!("127.0.0.1:{port}"));
    let own = [("WS__TLS__CERT_FILE", &*cert), ("WS__TLS__KEY_FILE", &*key), ("WS__TLS__LISTEN", &*listen)];
    let settings: Vec<_> = own.into_iter().chain(settings.iter().copied()).collect();
    (Stack::shared().another_edge(name, &settings).await, port)
}

fn connector(
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}

async fn try_connect(
    port: u16,
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    receive_buffer: Option<u32>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let socket = TcpSocket::new_v4().unwrap();
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes).unwrap();
    }
    let tcp = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    soon("a handshake", connector(trusted, versions).connect(name, tcp)).await
}

async fn connect(port: u16, trusted: &CertificateDer<'static>) -> TlsStream<TcpStream> {
    try_connect(port, trusted, &[&TLS13, &TLS12], None).await.unwrap()
}

type Session = WebSocketStream<TlsStream<TcpStream>>;

async fn session(tls: TlsStream<TcpStream>, account: &Account) -> Session {
    let request = "wss://localhost/?view=args".into_client_request().unwrap();
    let (mut session, _) = soon("an upgrade", tokio_tungstenite::client_async(request, tls)).await.unwrap();
    let data = json!({ "account_id": account.id, "binding": "call.*.*" });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    session.send(Message::text(request.to_string())).await.unwrap();
    assert_eq!(frame(&mut session).await["status"], "success");
    session
}

async fn frame(session: &mut Session) -> Value {
    loop {
        if let Message::Text(text) = soon("a frame", session.next()).await.unwrap().unwrap() {
            return serde_json::from_str(&text).unwrap();
        }
    }
}

async fn publish(account: &Account, call_id: &str) {
    events::call(account, "CHANNEL_CREATE", call_id).publish(&Stack::shared().publisher().await).await;
}

#[tokio::test]
async fn sessions_of_both_kinds_run_over_tls_1_2_and_1_3_beside_the_plain_port() {
    let (files, trusted) = Files::new("edge-tls");
    let (edge, port) = edge("edge-tls", &files, &[]).await;
    let account = Account::fresh();
    let mut plain = Client::connect(&edge.url("view=args")).await;
    plain.subscribe(&account, &["call.*.*"]).await;
    let mut sessions = Vec::new();
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let tls = try_connect(port, &trusted, &[version], None).await.unwrap();
        assert_eq!(tls.get_ref().1.protocol_version(), Some(expected));
        sessions.push(session(tls, &account).await);
    }
    let query = members(&account, &["call.*.*"], &[("auth_token", &account.token())]);
    let mut stream = EventStream::ask_over(connect(port, &trusted).await, &query, &[]).await;
    stream.reply().await;
    publish(&account, "to-all").await;
    assert_eq!(plain.event().await["args"]["Call-ID"], "to-all");
    assert_eq!(stream.event().await["args"]["Call-ID"], "to-all");
    for session in &mut sessions {
        assert_eq!(frame(session).await["args"]["Call-ID"], "to-all");
        // More than a record, in both directions.
        let long = "x".repeat(40_000);
        session.send(Message::text(json!({ "action": "ping", "pad": long }).to_string())).await.unwrap();
        assert_eq!(frame(session).await["data"]["response"], "pong");
        session.send(Message::Close(None)).await.unwrap();
        while let Some(Ok(_)) = soon("the end", session.next()).await {}
    }
    eventually("the end of the sessions", async || {
        Stack::metric(&edge.service, "blackhole_edge_sessions_closed_total{reason=\"client\"}").await == 2.0
    })
    .await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections_and_no_session_ends() {
    let (files, old) = Files::new("edge-renewed");
    let (edge, port) = edge("edge-renewed", &files, &[]).await;
    let account = Account::fresh();
    let mut open = session(connect(port, &old).await, &account).await;

    std::fs::write(files.path("key.pem"), "no key").unwrap();
    let reloads = async |outcome: &str| {
        let name = format!("blackhole_edge_certificate_reloads_total{{outcome=\"{outcome}\"}}");
        Stack::metric(&edge.service, &name).await
    };
    eventually("a failed reload", async || reloads("failed").await >= 1.0).await;
    connect(port, &old).await;

    let new = files.renew();
    eventually("a reload", async || reloads("ok").await >= 1.0).await;
    let mut renewed = session(connect(port, &new).await, &account).await;
    assert!(try_connect(port, &old, &[&TLS13], None).await.is_err(), "the old one is no longer shown");
    publish(&account, "renewed").await;
    for session in [&mut open, &mut renewed] {
        assert_eq!(frame(session).await["args"]["Call-ID"], "renewed");
    }
}

#[tokio::test]
async fn a_slow_reader_behind_tls_catches_up() {
    const EVENTS: u64 = 150;
    let (files, trusted) = Files::new("edge-tls-slow");
    let (edge, port) = edge("edge-tls-slow", &files, &[("WS__QUEUE_BYTES", "256KiB")]).await;
    let account = Account::fresh();
    let mut neighbour = Client::connect(&edge.url("view=args")).await;
    neighbour.subscribe(&account, &["call.*.*"]).await;
    let tls = try_connect(port, &trusted, &[&TLS13], Some(4096)).await.unwrap();
    let mut slow = session(tls, &account).await;
    let publisher = Stack::shared().publisher().await;
    for number in 0..EVENTS {
        events::large_call(&account, number).publish(&publisher).await;
        assert_eq!(neighbour.event().await["args"]["Number"], number);
    }
    assert_eq!(Stack::metric(&edge.service, "blackhole_edge_sessions_lagging").await, 1.0);
    for number in 0..EVENTS {
        assert_eq!(frame(&mut slow).await["args"]["Number"], number);
    }
    publish(&account, "after").await;
    assert_eq!(frame(&mut slow).await["args"]["Call-ID"], "after");
}

#[tokio::test]
async fn what_is_not_tls_is_refused_in_time_and_counted() {
    let (files, trusted) = Files::new("edge-tls-hostile");
    let (edge, port) = edge("edge-tls-hostile", &files, &[("WS__HANDSHAKE_TIMEOUT", "500ms")]).await;
    let account = Account::fresh();
    let mut open = session(connect(port, &trusted).await, &account).await;
    // Too large a record, HTTP, a record that ends nowhere, and silence.
    for bytes in [
        &b"\x16\x03\x01\xff\xff\x01\x00\xff\xfc\x03\x03"[..],
        b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"",
    ] {
        let mut raw = RawClient::connect(port).await;
        raw.send(bytes).await;
        raw.rest().await;
    }
    let refused = async |reason: &str| {
        let name = format!("blackhole_edge_handshakes_refused_total{{reason=\"{reason}\"}}");
        Stack::metric(&edge.service, &name).await
    };
    eventually("the counts", async || refused("tls").await == 2.0 && refused("timeout").await == 2.0).await;
    // Behind a handshake: bytes that no key has encrypted.
    let tls = connect(port, &trusted).await;
    let (mut tcp, _) = tls.into_inner();
    tokio::io::AsyncWriteExt::write_all(&mut tcp, &[0x17, 3, 3, 0, 5, 1, 2, 3, 4, 5]).await.unwrap();
    let mut rest = Vec::new();
    let _ = soon("the end", tokio::io::AsyncReadExt::read_to_end(&mut tcp, &mut rest)).await;
    publish(&account, "still-here").await;
    assert_eq!(frame(&mut open).await["args"]["Call-ID"], "still-here");
}

#[tokio::test]
async fn handshakes_begin_at_the_configured_rate() {
    let (files, trusted) = Files::new("edge-tls-paced");
    let (edge, port) = edge("edge-tls-paced", &files, &[("WS__ACCEPT_PER_SECOND", "1")]).await;
    let began = std::time::Instant::now();
    // The first two begin at once, and the others a second apart. The upgrade does not wait again.
    for _ in 0..4 {
        session(connect(port, &trusted).await, &Account::fresh()).await;
    }
    assert!(began.elapsed() > Duration::from_millis(1500), "{:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!(Stack::metric(&edge.service, "blackhole_edge_handshakes_refused_total").await, 0.0);
}

/// The error of `--check-config` with these files; none if they are good.
fn check(cert: &str, key: &str) -> Option<String> {
    let output = Command::new(stack::binaries().ws_edge)
        .arg("--check-config")
        .env("BLACKHOLE_WS__TLS__CERT_FILE", cert)
        .env("BLACKHOLE_WS__TLS__KEY_FILE", key)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error.lines().count(), usize::from(!output.status.success()), "one line: {error}");
    (!output.status.success()).then(|| error.trim().to_owned())
}

#[test]
fn unusable_files_are_named_with_what_they_have_to_be() {
    let (files, _) = Files::new("edge-tls-files");
    let (others, _) = Files::new("edge-tls-other");
    let other = others.path("key.pem");
    let (cert, key, none) = (files.path("cert.pem"), files.path("key.pem"), files.path("none.pem"));
    std::fs::write(files.path("text.pem"), "no PEM at all").unwrap();
    let text = files.path("text.pem");
    assert_eq!(check(&cert, &key), None);
    for (cert, key, file, hint) in [
        ("", &*key, "ws.tls.cert_file", "is required in [ws.tls]: a PEM file with the certificate"),
        (&cert, "", "ws.tls.key_file", "is required in [ws.tls]: a PEM file with the certificate's key"),
        (&none, &key, &none, "it has to be a PEM file with the certificate and then its chain"),
        (&text, &key, &text, "it has to be a PEM file with the certificate and then its chain"),
        (&cert, &none, &none, "it has to be a PEM file with the certificate's key, not encrypted"),
        (&cert, &text, &text, "it has to be a PEM file with the certificate's key, not encrypted"),
        (&cert, &other, &other, "do not fit together"),
    ] {
        let error = check(cert, key).unwrap_or_else(|| panic!("{cert} and {key} are good"));
        assert!(error.contains(file) && error.contains(hint), "{error}");
    }
}
