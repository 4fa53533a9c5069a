//! Blackhole: both brokers and the three services, with one or several edges.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use blackhole_dev::bench::Options;
use blackhole_dev::brokers::{Nats, RabbitMq};
use blackhole_dev::ports;
use blackhole_dev::process::{Process, Spec};
use blackhole_dev::services::{Binaries, Service};

use crate::clients::SERVER_NAME;
use crate::clients::protocol::SECRET;
use crate::load::{account_id, realm};

/// A Blackhole deployment.
pub(crate) struct Ours {
    /// The view that clients request.
    pub(crate) view: String,
    /// The edges' certificate, in PEM, if they speak TLS.
    pub(crate) certificate: Option<String>,
    dir: PathBuf,
    binaries: Binaries,
    env: Vec<(&'static str, String)>,
    // Dropped in this order: each before what it depends on.
    edges: Vec<(Service, u16)>,
    ingest: Service,
    auth: Service,
    rabbitmq: RabbitMq,
    nats: Nats,
}

const HISTORY_OFF: (&str, &str) = ("HISTORY__MAX_AGE", "0s");

impl Ours {
    /// Starts everything except edges.
    pub(crate) async fn start(dir: &Path, accounts: u32, history: bool, options: &Options) -> Result<Self> {
        let binaries = binaries()?;
        let (rabbitmq_dir, nats_dir) = (dir.join("rabbitmq"), dir.join("nats"));
        let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::start(&nats_dir));
        let (rabbitmq, nats) = (rabbitmq?, nats?);
        let file = dir.join("accounts.toml");
        std::fs::write(&file, accounts_file(accounts)).context("cannot write the accounts")?;
        let mut env = vec![
            ("NATS__URL", nats.url()),
            ("AMQP__URL", rabbitmq.url()),
            ("AUTH__ACCOUNTS_FILE", file.display().to_string()),
            ("AUTH__JWT__HS256_SECRET", SECRET.to_owned()),
            // Measure how many sessions an edge can accept, not its configured limit.
            ("WS__ACCEPT_PER_SECOND", "1000000".to_owned()),
            ("WS__MAX_CONNECTIONS_PER_IP", "0".to_owned()),
            ("WS__MAX_TOKENLESS_PER_IP", "0".to_owned()),
            ("WS__MAX_SESSIONS_PER_ACCOUNT", "0".to_owned()),
            ("WS__MAX_SUBJECTS_PER_ACCOUNT", "0".to_owned()),
        ];
        if !history {
            env.push((HISTORY_OFF.0, HISTORY_OFF.1.to_owned()));
        }
        let (auth, ingest) = tokio::join!(
            Service::start("auth-svc", &binaries.auth_svc, dir, &env),
            Service::start("amqp-ingest", &binaries.amqp_ingest, dir, &env),
        );
        let (auth, ingest, edges) = (auth?, ingest?, Vec::new());
        let (dir, view) = (dir.to_owned(), options.view.clone());
        let certificate = options.tls.then(|| certificate(&dir, &mut env)).transpose()?;
        Ok(Self { view, certificate, dir, binaries, env, edges, ingest, auth, rabbitmq, nats })
    }

    /// Replaces the edges by new ones.
    pub(crate) async fn renew(&mut self, count: usize, settings: &[(&str, &str)]) -> Result<()> {
        self.edges.clear();
        for number in 0..count {
            let port = ports::free()?;
            let mut env = self.env.clone();
            env.push(("WS__LISTEN", format!("127.0.0.1:{port}")));
            let mut env: Vec<(&str, String)> = env;
            env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
            let name = format!("ws-edge-{number}");
            self.edges.push((Service::start(&name, &self.binaries.ws_edge, &self.dir, &env).await?, port));
        }
        Ok(())
    }

    /// The edges' ports.
    pub(crate) fn ports(&self) -> Vec<u16> {
        self.edges.iter().map(|(_, port)| *port).collect()
    }

    /// The URL of the AMQP broker.
    pub(crate) fn amqp_url(&self) -> String {
        self.rabbitmq.url()
    }

    /// Its process groups.
    pub(crate) fn groups(&self) -> Result<Vec<(&'static str, i32)>> {
        let edges = self.edges.iter().map(|(edge, _)| ("edge", edge.server()));
        let others = [
            ("ingest", self.ingest.server()),
            ("auth", self.auth.server()),
            ("nats-server", self.nats.server()),
            ("rabbitmq", self.rabbitmq.server()),
        ];
        edges.chain(others).map(|(name, server)| Ok((name, server.process()?.id()))).collect()
    }

    /// Whether this release supports running without the history.
    pub(crate) async fn has_history_off(dir: &Path) -> Result<bool> {
        let (name, value) = HISTORY_OFF;
        let spec = Spec::new(binaries()?.amqp_ingest)
            .arg("--check-config")
            .env(format!("BLACKHOLE_{name}"), value)
            .log(dir.join("check-config.log"));
        Ok(Process::start(&spec)?.exited().await?.success())
    }
}

/// The services' programs, which are in the directory of this one.
fn binaries() -> Result<Binaries> {
    let own = std::env::current_exe().context("cannot find this program")?;
    match own.parent() {
        Some(dir) => Binaries::in_dir(dir),
        None => bail!("{} has no directory", own.display()),
    }
}

/// Makes a certificate and its key for the edges, and tells them.
fn certificate(dir: &Path, env: &mut Vec<(&'static str, String)>) -> Result<String> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (name, file, text) in
        [("WS__TLS__CERT_FILE", "edge.pem", &certificate), ("WS__TLS__KEY_FILE", "edge.key", &key)]
    {
        let file = dir.join(file);
        std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        env.push((name, file.display().to_string()));
    }
    Ok(certificate)
}

fn accounts_file(accounts: u32) -> String {
    let mut text = String::new();
    for account in 0..accounts {
        let (id, realm) = (account_id(account), realm(account));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "[[account]]\nid = \"{id}\"\nname = \"bench\"\nrealm = \"{realm}\"");
    }
    text
}
