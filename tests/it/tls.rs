//! TLS connections to both brokers.

use std::{path::Path, time::Duration};

use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    http, ports,
    process::Spec,
    server::{Ready, Server},
    simulator::Publisher,
    workspace::RunDir,
};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events, eventually, stack,
};

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Brokers with TLS listeners and a self-signed certificate.
struct Brokers {
    dir: RunDir,
    rabbitmq: RabbitMq,
    nats: Nats,
    amqps: u16,
}

impl Brokers {
    async fn start(name: &str) -> Brokers {
        let dir = RunDir::create(name).unwrap();
        let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let file = |name: &str, text: String| {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            file.display().to_string()
        };
        let cert = file("cert.pem", certificate.cert.pem());
        let key = file("key.pem", certificate.signing_key.serialize_pem());
        let amqps = ports::free().unwrap();
        let for_rabbitmq = format!(
            "listeners.ssl.1 = 127.0.0.1:{amqps}\nssl_options.certfile = {cert}\nssl_options.keyfile = {key}"
        );
        let for_nats = format!("tls {{ cert_file: \"{cert}\", key_file: \"{key}\" }}\nallow_non_tls: true");
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let (rabbitmq, nats) = tokio::join!(
            RabbitMq::with_config(&rabbitmq_dir, &for_rabbitmq),
            Nats::with_config(&nats_dir, &for_nats)
        );
        std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
        Brokers { rabbitmq: rabbitmq.unwrap(), nats: nats.unwrap(), amqps, dir }
    }

    /// Starts a service that trusts the certificates in the file `roots`; returns it with its admin address.
    fn service(&self, name: &str, program: &Path, roots: &str, env: &[(&str, String)]) -> (Server, String) {
        let admin = format!("127.0.0.1:{}", ports::free().unwrap());
        let spec = Spec::new(program)
            .env("SSL_CERT_FILE", self.dir.path().join(roots))
            .env("BLACKHOLE_ADMIN__LISTEN", &admin)
            .env("BLACKHOLE_NATS__URL", format!("tls://localhost:{}", self.nats.port()))
            .env("BLACKHOLE_AMQP__URL", format!("amqps://guest:guest@localhost:{}/%2f", self.amqps))
            .env("BLACKHOLE_AUTH__ACCOUNTS_FILE", self.dir.path().join("accounts.toml"))
            .env("BLACKHOLE_AUTH__JWT__HS256_SECRET", accounts::SECRET)
            .log(self.dir.path().join(format!("{name}.log")));
        let spec = env.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let server =
            Server::new(name, spec, Ready::Http(admin.clone(), "/health/ready".into()), READY_TIMEOUT);
        server.start_unready().unwrap();
        (server, admin)
    }
}

#[tokio::test]
async fn events_pass_over_amqps_and_encrypted_nats() {
    let brokers = Brokers::start("tls").await;
    let binaries = stack::binaries();
    let port = ports::free().unwrap();
    let listen = [("BLACKHOLE_WS__LISTEN", format!("127.0.0.1:{port}"))];
    let services = [
        brokers.service("auth-svc", &binaries.auth_svc, "cert.pem", &[]),
        brokers.service("amqp-ingest", &binaries.amqp_ingest, "cert.pem", &[]),
        brokers.service("ws-edge", &binaries.ws_edge, "cert.pem", &listen),
    ];
    for (service, _) in &services {
        service.wait_ready().await.unwrap();
    }
    let account = Account::fresh();
    let mut client = Client::connect(&format!("ws://127.0.0.1:{port}/?view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = Publisher::connect(&brokers.rabbitmq.url()).await.unwrap();
    events::call(&account, "CHANNEL_CREATE", "sealed").publish(&publisher).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "sealed");

    let connections = http::get(&brokers.nats.monitor(), "/connz").await.unwrap().body;
    let connections: serde_json::Value = serde_json::from_str(&connections).unwrap();
    let connections = connections["connections"].as_array().unwrap();
    for name in ["amqp-ingest", "amqp-ingest requests", "ws-edge feed", "auth-svc"] {
        let own = connections.iter().find(|connection| connection["name"] == name);
        assert!(own.unwrap_or_else(|| panic!("no {name}"))["tls_version"].is_string(), "{name}: {own:?}");
    }
}

#[tokio::test]
async fn brokers_with_an_untrusted_certificate_are_not_used() {
    let brokers = Brokers::start("untrusted").await;
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(brokers.dir.path().join("stranger.pem"), stranger.cert.pem()).unwrap();
    let program = stack::binaries().amqp_ingest;
    let (_service, admin) = brokers.service("amqp-ingest", &program, "stranger.pem", &[]);
    let log = brokers.dir.path().join("amqp-ingest.log");
    eventually("both refusals", || async {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let refused =
            |what: &str| log.lines().any(|line| line.contains(what) && line.contains("certificate"));
        refused("amqp") && refused("nats")
    })
    .await;
    assert_eq!(http::get(&admin, "/health/ready").await.unwrap().status, 503);
    // Nothing was sent to them.
    assert_eq!(brokers.rabbitmq.queues().await.unwrap(), []);
}
