//! How services log in to NATS, besides user and password: `.creds` files, nkeys and client certificates.

use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    ports,
    process::Spec,
    server::{Ready, Server},
    simulator::Publisher,
    workspace::RunDir,
};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events, eventually,
    nats_accounts::Operator,
    stack,
};
use nkeys::KeyPair;
use std::{path::PathBuf, time::Duration};

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Files for one test.
struct Files(RunDir);

impl Files {
    fn new(name: &str) -> Files {
        let dir = RunDir::create(name).unwrap();
        std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
        Files(dir)
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A service with these settings, not ready yet.
    fn service(&self, name: &str, settings: &[(&str, String)]) -> Server {
        let binaries = stack::binaries();
        let program = match name {
            "amqp-ingest" => binaries.amqp_ingest,
            "auth-svc" => binaries.auth_svc,
            _ => binaries.ws_edge,
        };
        let admin = format!("127.0.0.1:{}", ports::free().unwrap());
        let spec = Spec::new(program)
            .env("BLACKHOLE_ADMIN__LISTEN", &admin)
            .env("BLACKHOLE_AUTH__ACCOUNTS_FILE", self.path("accounts.toml"))
            .env("BLACKHOLE_AUTH__JWT__HS256_SECRET", accounts::SECRET)
            .log(self.path(&format!("{name}.log")));
        let spec = settings.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let server = Server::new(name, spec, Ready::Http(admin, "/health/ready".into()), READY_TIMEOUT);
        server.start_unready().unwrap();
        server
    }

    /// Carries an event through services that log in to this NATS with these settings.
    async fn assert_carried(&self, nats_url: &str, login: &[(&str, String)]) {
        let rabbitmq = RabbitMq::start(&self.0.subdir("rabbitmq").unwrap()).await.unwrap();
        let port = ports::free().unwrap();
        let mut settings = vec![
            ("BLACKHOLE_NATS__URL", nats_url.to_owned()),
            ("BLACKHOLE_AMQP__URL", rabbitmq.url()),
            ("BLACKHOLE_WS__LISTEN", format!("127.0.0.1:{port}")),
        ];
        settings.extend_from_slice(login);
        let services = ["amqp-ingest", "auth-svc", "ws-edge"].map(|name| self.service(name, &settings));
        for service in &services {
            service.wait_ready().await.unwrap();
        }
        let account = Account::fresh();
        let mut client = Client::connect(&format!("ws://127.0.0.1:{port}/?view=args")).await;
        client.subscribe(&account, &["call.*.*"]).await;
        let publisher = Publisher::connect(&rabbitmq.url()).await.unwrap();
        events::call(&account, "CHANNEL_CREATE", "logged-in").publish(&publisher).await;
        assert_eq!(client.event().await["args"]["Call-ID"], "logged-in");
    }

    /// A service with these settings is refused by NATS, and its log has `reason`.
    async fn assert_refused(&self, nats_url: &str, login: &[(&str, String)], reason: &str) {
        let mut settings = vec![("BLACKHOLE_NATS__URL", nats_url.to_owned())];
        settings.extend_from_slice(login);
        settings.push(("BLACKHOLE_WS__LISTEN", "127.0.0.1:0".to_owned()));
        let service = self.service("refused", &settings);
        eventually(reason, || async {
            std::fs::read_to_string(self.path("refused.log")).unwrap_or_default().contains(reason)
        })
        .await;
        assert!(!service.is_ready().await);
    }
}

#[tokio::test]
async fn services_log_in_with_a_credentials_file() {
    let files = Files::new("creds");
    let (operator, stranger) = (Operator::new(), Operator::new());
    let nats = Nats::with_config(&files.0.subdir("nats").unwrap(), &operator.server_config()).await.unwrap();
    let file = files.write("blackhole.creds", &operator.credentials());
    let strange = files.write("strange.creds", &stranger.credentials());
    files.assert_refused(&nats.url(), &[("BLACKHOLE_NATS__CREDENTIALS", strange)], "uthorization").await;
    files.assert_carried(&nats.url(), &[("BLACKHOLE_NATS__CREDENTIALS", file)]).await;
}

#[tokio::test]
async fn services_log_in_with_an_nkey() {
    let files = Files::new("nkey");
    let (user, stranger) = (KeyPair::new_user(), KeyPair::new_user());
    let config = format!("authorization {{ users = [ {{ nkey: {} }} ] }}", user.public_key());
    let nats = Nats::with_config(&files.0.subdir("nats").unwrap(), &config).await.unwrap();
    let file = files.write("user.nk", &format!("# made with nk -gen user\n{}\n", user.seed().unwrap()));
    let strange = files.write("strange.nk", &stranger.seed().unwrap());
    files.assert_refused(&nats.url(), &[("BLACKHOLE_NATS__NKEY", strange)], "uthorization").await;
    files.assert_carried(&nats.url(), &[("BLACKHOLE_NATS__NKEY", file)]).await;
}

#[tokio::test]
async fn services_log_in_with_a_client_certificate() {
    let files = Files::new("certificate");
    let server = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
    parameters.distinguished_name.push(rcgen::DnType::CommonName, "blackhole");
    parameters.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let key = rcgen::KeyPair::generate().unwrap();
    let client = parameters.self_signed(&key).unwrap();
    let roots = files.write("server.pem", &server.cert.pem());
    let server_key = files.write("server.key", &server.signing_key.serialize_pem());
    let cert = files.write("client.pem", &client.pem());
    let client_key = files.write("client.key", &key.serialize_pem());
    let config = format!(
        "tls {{ cert_file: \"{roots}\", key_file: \"{server_key}\", ca_file: \"{cert}\", verify_and_map: true }}\n\
         authorization {{ users = [ {{ user: \"CN=blackhole\" }} ] }}"
    );
    let nats = Nats::with_config(&files.0.subdir("nats").unwrap(), &config).await.unwrap();
    let url = format!("tls://localhost:{}", nats.port());
    let trust = ("SSL_CERT_FILE", roots);
    files.assert_refused(&url, std::slice::from_ref(&trust), "ertificate").await;
    let login = [trust, ("BLACKHOLE_NATS__CLIENT_CERT", cert), ("BLACKHOLE_NATS__CLIENT_KEY", client_key)];
    files.assert_carried(&url, &login).await;
}
