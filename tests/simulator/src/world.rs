//! A run: the services' own code between the simulated NATS and the simulated clients.

mod act;

use std::{sync::Arc, time::Duration};

use amqp_ingest::IngestConfig;
use blackhole_common::{
    catalogue::Catalogue,
    chance,
    config::{NatsConfig, ServerUrl},
    nats::link::Servers,
    wire::Subjects,
};
use bytesize::ByteSize;
use parking_lot::Mutex;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::{task::JoinHandle, time::Instant};
use ws_edge::{config::EdgeConfig, protocol::view::View, simulated::SimulatedEdge};

use crate::{
    ingest::Ingest,
    model::{
        Counts, Model, Shared,
        client::{Asked, Client, Since},
    },
    nats::{
        Cluster, Nats,
        connection::Dialer,
        past,
        stream::{Stored, Stream},
    },
    numbers::{AuthSvc, number},
    plan::{ACCOUNTS, Action, INBOUND_CALL, Plan, Wanted, subject},
    rabbitmq::{self, Broker, RabbitMq},
};

/// How many bytes NATS keeps for an edge that does not read: few, so that it happens.
const EDGE_PENDING: usize = 256 << 10;
/// And for an ingest: as many as nats-server does.
const INGEST_PENDING: usize = 64 << 20;
/// How often faithful clients look whether they are connected.
const TICK: Duration = Duration::from_millis(250);
/// After this time without faults, and after all messages are stored, everybody must have everything.
const RECOVERY: Duration = Duration::from_secs(60);

/// How long storing them may take.
const STORED: Duration = Duration::from_secs(900);
/// And this long after the last event.
const LAST: Duration = Duration::from_secs(10);

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) counts: Counts,
}

struct World<'p> {
    plan: &'p Plan,
    catalogue: Arc<Catalogue>,
    config: EdgeConfig,
    subjects: Subjects,
    nats: Arc<Nats>,
    rabbitmq: Arc<RabbitMq>,
    auth_svc: Arc<AuthSvc>,
    ingests: Vec<Option<Ingest>>,
    model: Shared,
    edges: Vec<Option<(SimulatedEdge, Vec<JoinHandle<()>>)>>,
    last_session: u64,
    last_event: u64,
    /// Key and body of the last event of the last account.
    repeatable: Option<(String, u64, String)>,
}

/// Runs a plan.
pub(crate) fn run(plan: &Plan, catalogue: &Catalogue, is_shown: bool) -> Outcome {
    chance::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let Ok(runtime) = runtime else {
        let violation = Some("there is no runtime".to_owned());
        return Outcome { violation, counts: Counts::default() };
    };
    runtime.block_on(async {
        let mut world = World::new(plan, catalogue, is_shown);
        world.play().await;
        let model = world.model.lock();
        Outcome { violation: model.violation.clone(), counts: model.counts }
    })
}

impl<'p> World<'p> {
    fn new(plan: &'p Plan, catalogue: &Catalogue, is_shown: bool) -> World<'p> {
        let subjects = Subjects::new("blackhole.v1");
        let mut model = Model::new(is_shown);
        for index in 0..plan.clients {
            model.clients.push(Client { account: index % (ACCOUNTS - 1), ..Client::default() });
        }
        // What is too old or too much leaves the stream.
        model.may_miss = plan.max_age < 600 || plan.max_bytes < 1 << 30;
        model.has_ingest = plan.ingests > 0;
        let model = Arc::new(Mutex::new(model));
        let stored = Arc::clone(&model);
        let on_stored = Box::new(move |message: &Stored, stream: &Stream| {
            stored.lock().stored(message, |id| stream.has(id));
        });
        let queue = Arc::clone(&model);
        let on_left = Box::new(move |number, how| queue.lock().left(number, how));
        let rng = StdRng::seed_from_u64(plan.seed ^ 0xab17);
        let rabbitmq = Broker::start(rng, plan.queue_bytes, on_left);
        let rng = StdRng::seed_from_u64(plan.seed ^ 0x5eed);
        let nats = Cluster::start(plan.servers, rng, subjects.clone(), on_stored);
        let mut config = EdgeConfig::default();
        let url = ["nats://n0", "nats://n0,nats://n1,nats://n2"][usize::from(plan.servers > 1)];
        config.nats = NatsConfig { url: ServerUrl::new(url), ..NatsConfig::default() };
        config.ws.view = View::Args;
        config.ws.queue_bytes = ByteSize(3000);
        config.ws.auth_timeout = Duration::from_secs(3600);
        config.ws.linger = Duration::from_secs(2);
        let edges = (0..plan.edges).map(|_| None).collect();
        World {
            plan,
            catalogue: Arc::new(catalogue.clone()),
            config,
            subjects,
            nats,
            rabbitmq,
            auth_svc: Arc::new(AuthSvc::new(plan.seed ^ 0xd1a1)),
            ingests: (0..plan.ingests).map(|_| None).collect(),
            model,
            edges,
            last_session: 0,
            last_event: 0,
            repeatable: None,
        }
    }

    async fn play(&mut self) {
        if self.plan.has_stream {
            self.create();
        }
        (0..self.plan.ingests).for_each(|ingest| self.start_ingest(ingest));
        (0..self.plan.edges).for_each(|edge| self.start_edge(edge));
        let began = Instant::now();
        let mut tick = began + TICK;
        for (at, action) in &self.plan.actions {
            while tick < began + *at {
                tokio::time::sleep_until(tick).await;
                tick += TICK;
                self.look_after_clients(false);
            }
            tokio::time::sleep_until(began + *at).await;
            self.act(action);
            if self.model.lock().violation.is_some() {
                return;
            }
        }
        self.end().await;
    }

    /// Everything works again; then nobody may wait for anything.
    async fn end(&mut self) {
        self.model.lock().say(|| "all is well".to_owned());
        self.create();
        self.nats.change(|cluster| cluster.heal());
        self.rabbitmq.change(Broker::heal);
        for edge in 0..self.plan.edges {
            self.start_edge(edge);
        }
        for ingest in 0..self.plan.ingests {
            self.start_ingest(ingest);
            self.ingests[ingest].iter().for_each(|ingest| ingest.freeze(false));
        }
        for client in 0..self.plan.clients {
            self.model.lock().read(client, true);
        }
        self.wait_for_ingest().await;
        self.wait(RECOVERY).await;
        self.model.lock().is_well = true;
        for account in 0..ACCOUNTS {
            for key in ["call.CHANNEL_CREATE.c0", "call.CHANNEL_ANSWER.c1", "call.CHANNEL_DESTROY.c2"] {
                self.publish(account, key, 0);
            }
        }
        for client in 0..self.plan.clients {
            let now = self.nats.state.lock().now();
            self.model.lock().ask(client, Asked::Ping, now);
        }
        self.wait_for_ingest().await;
        self.wait(LAST).await;
        let consumers = self.nats.state.lock().consumers;
        let mut model = self.model.lock();
        if consumers > 0 && model.violation.is_none() {
            model.blame(format!("{consumers} consumers are left at the server"));
        }
        model.check_end();
    }

    async fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end && self.model.lock().violation.is_none() {
            self.look_after_clients(true);
            self.nats.change(|cluster| cluster.store_waiting());
            tokio::time::sleep(TICK).await;
        }
    }

    /// Waits until all messages are stored.
    async fn wait_for_ingest(&mut self) {
        let end = Instant::now() + STORED;
        while Instant::now() < end && self.model.lock().queue.first_waiting().is_some() {
            self.wait(TICK).await;
            if self.model.lock().violation.is_some() {
                return;
            }
        }
    }

    fn create(&mut self) {
        // The ingest does it.
        if self.plan.ingests > 0 {
            return;
        }
        let config = json!({
            "name": self.subjects.stream(),
            "subjects": [format!("{}.>", self.subjects.ingest())],
            "max_age": self.plan.max_age * 1_000_000_000,
            "max_bytes": self.plan.max_bytes,
        });
        self.nats.change(|cluster| cluster.create(config));
    }

    fn start_edge(&mut self, edge: usize) {
        if self.edges[edge].is_some() {
            return;
        }
        self.model.lock().say(|| format!("edge {edge} starts"));
        let dialer =
            Arc::new(Dialer { nats: Arc::clone(&self.nats), owner: edge, max_pending: EDGE_PENDING });
        let client = Arc::new(past::Client { nats: Arc::clone(&self.nats) });
        let servers = Servers::over(self.config.nats.clone(), dialer);
        let config = self.config.clone();
        let started = SimulatedEdge::start(
            config,
            (*self.catalogue).clone(),
            servers,
            Arc::clone(&client) as _,
            client,
        );
        self.edges[edge] = Some((started, Vec::new()));
    }

    fn stop_edge(&mut self, edge: usize) {
        let Some((_, sessions)) = self.edges[edge].take() else { return };
        let mut model = self.model.lock();
        model.say(|| format!("edge {edge} is killed"));
        for client in 0..self.plan.clients {
            if model.clients[client].session.as_ref().is_some_and(|session| session.edge == edge) {
                model.leave(client);
            }
        }
        drop(model);
        sessions.iter().for_each(JoinHandle::abort);
    }

    fn start_ingest(&mut self, ingest: usize) {
        if self.ingests[ingest].is_some() {
            return;
        }
        self.model.lock().say(|| format!("ingest {ingest} starts"));
        let Plan { max_age, max_bytes, prefetch, servers, .. } = self.plan;
        let config = json!({
            "amqp": { "url": "amqp://rabbitmq", "prefetch": prefetch, "check_interval": "5s" },
            "history": {
                "max_age": format!("{max_age}s"),
                "max_bytes": max_bytes,
                "replicas": servers,
            },
        });
        let config: IngestConfig = serde_json::from_value(config).unwrap();
        let owner = self.plan.edges + ingest;
        let dialer = Arc::new(Dialer { nats: Arc::clone(&self.nats), owner, max_pending: INGEST_PENDING });
        let servers = Servers::over(self.config.nats.clone(), dialer);
        let dialer = rabbitmq::Dialer { rabbitmq: Arc::clone(&self.rabbitmq), owner: ingest };
        let auth_svc = Arc::clone(&self.auth_svc) as _;
        self.ingests[ingest] =
            Some(Ingest::start(config, Arc::clone(&self.catalogue), servers, dialer, auth_svc));
    }

    fn connect(&mut self, client: usize, edge: usize) {
        let Some((running, sessions)) = &mut self.edges[edge] else { return };
        let connection = self.model.lock().connect(&self.model, client, edge);
        self.last_session += 1;
        sessions.extend(running.serve(self.last_session, Arc::new(connection)));
    }

    fn publish(&mut self, account: usize, key: &str, size: usize) {
        self.last_event += 1;
        let name = key.split('.').nth(1).unwrap_or_default();
        let filler = "x".repeat(size);
        let id = self.last_event;
        if self.plan.ingests > 0 {
            let mut body = json!({ "Event-Name": name, "Msg-ID": id.to_string(), "Filler": filler });
            // Without its account, an event belongs to nobody.
            if self.plan.has_inbound
                && key.ends_with(INBOUND_CALL)
                && name != "CHANNEL_ANSWER"
                && !id.is_multiple_of(3)
            {
                body["Request"] = format!("{}@[", number(account, id)).into();
            } else {
                body["Custom-Channel-Vars"] = json!({ "Account-ID": format!("{account:032x}") });
            }
            let body = body.to_string();
            self.publish_to_queue(key, id, &body);
            if account + 1 == ACCOUNTS {
                self.repeatable = Some((key.to_owned(), id, body));
            }
            return;
        }
        let body = json!({ "Event-Name": name, "Msg-ID": id.to_string(), "Filler": filler });
        let subject = subject(&self.subjects.ingest(), account, key);
        self.nats.change(|cluster| cluster.publish(subject, name, body.to_string()));
    }

    fn publish_to_queue(&mut self, key: &str, id: u64, body: &str) {
        // KAZOO's messages do not wait for a broker.
        if !self.rabbitmq.state.lock().is_up() {
            return;
        }
        let may_wait = self.plan.has_inbound && key.ends_with(INBOUND_CALL);
        self.model.lock().queue.publish(id, may_wait);
        self.rabbitmq.change(|broker| broker.publish(key, body.to_owned().into()));
    }

    /// Clients that were subscribed reconnect and resume.
    fn look_after_clients(&mut self, all: bool) {
        for client in 0..self.plan.clients {
            let (is_connected, resumes, is_waiting) = {
                let model = self.model.lock();
                let own = &model.clients[client];
                (own.session.is_some(), own.must_resume, !own.pending.is_empty())
            };
            if !is_connected && (resumes || all) {
                let Some(edge) = self.edges.iter().rposition(Option::is_some) else { continue };
                self.connect(client, edge);
            } else if is_connected && resumes && !is_waiting {
                let now = self.nats.state.lock().now();
                let mut model = self.model.lock();
                let own = &mut model.clients[client];
                let bindings: Vec<String> = own.threads.keys().cloned().collect();
                let since = match &own.last {
                    Some(position) if own.is_mixed => Since::Cursor(position.clone()),
                    Some(position) => Since::Last(position.clone()),
                    None => {
                        own.threads.clear();
                        own.must_resume = false;
                        Since::Now
                    }
                };
                model.ask(client, Asked::Subscribe { bindings, since }, now);
            }
        }
    }
}
