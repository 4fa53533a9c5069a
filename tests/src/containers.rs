//! The containers of `deploy/compose.yaml`, from outside: through HAProxy with TLS, while parts are scaled and replaced.
//!
//! | module | contents |
//! |---|---|
//! | [`images`] | what the images and their containers may not have |
//! | `clients` | numbered events, and clients that resume |

mod clients;
pub mod images;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use blackhole_dev::{simulator::Publisher, workspace};
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::{accounts::Account, browser::Browser, chaos::show, events};
use clients::{Received, World, connect};

const CLIENTS: usize = 40;
/// Containers start, wait for each other, and drain.
const STEP_TIMEOUT: Duration = Duration::from_secs(180);
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// The compose project, apart from the one that an operator runs.
const PROJECT: &str = "blackhole-test";
/// The services with images of our own, as compose.yaml calls them, and their images.
const SERVICES: [(&str, &str); 3] =
    [("amqp-ingest", "amqp-ingest"), ("auth-svc", "auth-svc"), ("edge", "ws-edge")];

const AMQP_URL: &str = "amqp://guest:guest@127.0.0.1:5672/%2f";
const WSS_PORT: u16 = 7777;

/// A copy of `deploy/` whose compose project runs.
#[derive(Debug)]
pub struct Compose {
    /// The directory of compose.yaml.
    pub dir: PathBuf,
    /// The version of the images.
    pub version: String,
}

impl Compose {
    /// Runs `docker`, and returns its output.
    async fn docker(&self, args: &[&str]) -> Result<String, String> {
        let mut command = tokio::process::Command::new("docker");
        let output = command
            .args(args)
            .env("VERSION", &self.version)
            .env("COMPOSE_PROJECT_NAME", PROJECT)
            .kill_on_drop(true)
            .output();
        let output =
            timeout(STEP_TIMEOUT, output).await.map_err(|_| format!("docker {args:?} hangs"))?.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Runs `docker compose`.
    async fn compose(&self, args: &[&str]) -> String {
        let file = self.dir.join("compose.yaml").display().to_string();
        let args = [&["compose", "-f", &file], args].concat();
        self.docker(&args).await.unwrap_or_else(|error| panic!("docker {}: {error}", args.join(" ")))
    }

    async fn containers(&self, service: &str) -> Vec<String> {
        self.compose(&["ps", "-q", service]).await.lines().map(str::to_owned).collect()
    }

    /// How many edges HAProxy sends clients to.
    async fn edges_up(&self) -> usize {
        let page = ["exec", "-T", "haproxy", "wget", "-q", "-O", "-", "http://127.0.0.1:8404/;csv"];
        let csv = self.compose(&page).await;
        csv.lines().filter(|line| line.starts_with("edges,edge") && line.contains(",UP,")).count()
    }

    async fn scale_edges(&self, count: usize) {
        self.compose(&["up", "-d", "--no-recreate", "--scale", &format!("edge={count}"), "edge"]).await;
        within("HAProxy's list of edges", async || self.edges_up().await == count).await;
    }

    /// Replaces the containers of a service. There are as many as compose.yaml says.
    async fn replace(&self, service: &str) {
        let edges = self.edges_up().await;
        self.compose(&["up", "-d", "--no-deps", "--force-recreate", "--wait", service]).await;
        within("HAProxy's list of edges", async || self.edges_up().await == edges).await;
    }
}

async fn within(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = timeout(STEP_TIMEOUT, async {
        while !condition().await {
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}: not within {STEP_TIMEOUT:?}");
}

/// A certificate for localhost, written where HAProxy reads it. The file stays the same one, because it is mounted.
fn write_certificate(file: &Path) {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = rcgen::generate_simple_self_signed(names).unwrap();
    std::fs::write(file, certificate.cert.pem() + &certificate.signing_key.serialize_pem()).unwrap();
}

/// The documented page and the console, in a real browser.
async fn show_pages(world: &World) {
    let kazoo = Publisher::connect(AMQP_URL).await.unwrap();
    let browser = Browser::open().await;
    let (token, account) = (&world.token, &world.account);
    browser.goto(&format!("https://localhost:{WSS_PORT}/#token={token}&binding=call.*.*")).await;
    browser.until("!!document.querySelector('.subscription[data-state=active]')").await;
    events::call(account, "CHANNEL_CREATE", "in-the-console").publish(&kazoo).await;
    browser.until("document.getElementById('events').textContent.includes('in-the-console')").await;

    let example = workspace::root().unwrap().join("docs/example.html");
    let url = format!("wss://localhost:{WSS_PORT}/");
    let fragment = format!("url={url}&token={token}&account={}&conference=C", account.id);
    browser.goto(&format!("file://{}#{fragment}", example.display())).await;
    browser.until("document.querySelectorAll('#messages li').length === 3").await;
    events::call(account, "CHANNEL_CREATE", "in-the-example").publish(&kazoo).await;
    browser.until("document.getElementById('messages').textContent.includes('in-the-example')").await;
    browser.close().await;
    show("the console and docs/example.html receive events in Chromium, over TLS");
}

/// Scales and replaces parts while events flow.
///
/// # Panics
/// If a client misses an event, or gets one twice or out of order.
pub async fn run(compose: &Compose, certificate: &Path) {
    let began = Instant::now();
    let accounts = std::fs::read_to_string(compose.dir.join("dev/accounts.toml")).unwrap();
    let value = |name: &str| {
        let line = accounts.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    let account = Account { id: value("id = "), realm: value("realm = ") };
    let token = compose.compose(&["run", "--rm", "-T", "auth-svc", "token", "--account", &account.id]).await;
    let token = token.lines().last().unwrap().to_owned();
    let world = Arc::new(World::new(account, token, certificate));
    show_pages(&world).await;

    let clients: Vec<Arc<Mutex<Received>>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    let _running: Vec<_> = clients
        .iter()
        .map(|received| {
            let (world, received) = (Arc::clone(&world), Arc::clone(received));
            AbortOnDropHandle::new(tokio::spawn(async move { world.follow(&received).await }))
        })
        .collect();
    within("subscriptions", async || clients.iter().all(|client| client.lock().connections > 0)).await;
    let publishing = {
        let world = Arc::clone(&world);
        tokio::spawn(async move { world.publish().await })
    };
    // Every client has an event from after the step.
    let flows = async |what: &str| {
        let mark = world.published() + 1;
        let is_current = |client: &Arc<Mutex<Received>>| client.lock().last() > Some(mark);
        within(what, async || clients.iter().all(is_current)).await;
        let connections: usize = clients.iter().map(|client| client.lock().connections).sum();
        show(format_args!(
            "{:4.0} s: {what}; {mark} events, {connections} subscriptions",
            began.elapsed().as_secs_f64()
        ));
    };
    flows("2 edges").await;
    for count in [5, 1, 2] {
        compose.scale_edges(count).await;
        flows(&format!("{count} edges")).await;
    }
    for (service, _) in SERVICES {
        compose.replace(service).await;
        flows(&format!("{service} replaced")).await;
    }
    compose.compose(&["kill", "-s", "SIGUSR2", "haproxy"]).await;
    flows("HAProxy reloaded").await;
    write_certificate(certificate);
    compose.compose(&["kill", "-s", "SIGUSR2", "haproxy"]).await;
    within("the new certificate", async || connect(certificate).await.is_some()).await;
    flows("certificate renewed").await;
    compose.compose(&["restart", "nats"]).await;
    within("HAProxy's list of edges", async || compose.edges_up().await == 2).await;
    flows("NATS restarted").await;

    world.stop();
    publishing.await.unwrap();
    let published = world.published();
    let has_all = |client: &Arc<Mutex<Received>>| client.lock().last() == Some(published - 1);
    within("the last event", async || clients.iter().all(has_all)).await;
    let expected: Vec<u64> = (0..published).collect();
    for client in &clients {
        assert!(client.lock().numbers == expected, "not each event once and in order");
    }
    let connections: usize = clients.iter().map(|client| client.lock().connections).sum();
    let refused = world.refused.lock();
    show(format_args!(
        "{published} events, {CLIENTS} clients, {connections} subscriptions: none lost, none twice, none out of order"
    ));
    show(format_args!("error replies: {refused:?}"));
}
