//! Two versions side by side: the services are replaced one process at a time, from the baseline to this version and back,
//! while numbered events flow and clients resume on edges of either version.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use blackhole_dev::{server::Server, services::Binaries};

use crate::{
    chaos::{
        self,
        clients::{Clients, Kind},
        deployment::{Deployment, Setup},
        show,
        source::{CALLS, Source},
    },
    stack::binaries,
};

/// Events per second.
const RATE: u32 = 300;

/// Which build a process is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Baseline,
    Newest,
}

/// A process of the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Ingest(usize),
    AuthSvc(usize),
    Edge(usize),
}

use Part::{AuthSvc, Edge, Ingest};
use Version::{Baseline, Newest};

const PARTS: [Part; 6] = [Ingest(0), Ingest(1), AuthSvc(0), AuthSvc(1), Edge(0), Edge(1)];

/// The parts that are replaced before events flow for a while. Everything is of the baseline at first.
const WALK: [(Version, &[Part]); 15] = [
    (Newest, &[Ingest(1)]),
    (Newest, &[Ingest(0)]),
    (Newest, &[AuthSvc(0)]),
    (Newest, &[AuthSvc(1)]),
    (Newest, &[Edge(0)]),
    (Newest, &[Edge(1)]),
    // Each service alone is old.
    (Baseline, &[Ingest(0), Ingest(1)]),
    (Newest, &[Ingest(0), Ingest(1)]),
    (Baseline, &[AuthSvc(0), AuthSvc(1)]),
    (Newest, &[AuthSvc(0), AuthSvc(1)]),
    // Back, in another order.
    (Baseline, &[Edge(0)]),
    (Baseline, &[Ingest(0)]),
    (Baseline, &[Edge(1)]),
    (Baseline, &[AuthSvc(0), AuthSvc(1)]),
    (Baseline, &[Ingest(1)]),
];

/// The version of each part.
struct State(BTreeMap<Part, Version>);

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let both = |part: fn(usize) -> Part| {
            let name = |number| match self.0.get(&part(number)) {
                Some(Version::Newest) => "new",
                _ => "old",
            };
            format!("{} {}", name(0), name(1))
        };
        write!(f, "ingests {}, auth-svcs {}, edges {}", both(Ingest), both(AuthSvc), both(Edge))
    }
}

fn server(deployment: &Deployment, part: Part) -> &Server {
    match part {
        Ingest(number) => deployment.ingests[number].server(),
        AuthSvc(number) => deployment.auth_svcs[number].server(),
        Edge(number) => deployment.edges[number].service.server(),
    }
}

fn program(programs: &Binaries, part: Part) -> &Path {
    match part {
        Ingest(_) => &programs.amqp_ingest,
        AuthSvc(_) => &programs.auth_svc,
        Edge(_) => &programs.ws_edge,
    }
}

/// Runs the walk with the baseline's programs, and lets events flow for `time` after each step.
///
/// # Panics
/// If an event was lost, came twice or out of order for any client, or a request was refused.
pub async fn run(baseline: &Binaries, time: Duration) {
    let newest = binaries();
    let setup = Setup {
        cluster: false,
        auth_svcs: 2,
        programs: baseline.clone(),
        edge_settings: vec![("WS__DRAIN", "1s".to_owned())],
    };
    let deployment = Arc::new(Deployment::start_with("compat", setup).await);
    let source = Source::new(Duration::from_secs(1) * u32::try_from(CALLS).unwrap() / RATE);
    let kinds = [Kind::Roaming, Kind::Resuming, Kind::Lagging, Kind::Plain];
    let clients = Clients::start(&deployment, &source, &kinds, 1).await;
    let sending = source.start(&deployment);
    let mut state = State(PARTS.into_iter().map(|part| (part, Baseline)).collect());
    let mut before = (0, 0);
    let began = tokio::time::Instant::now();
    for step in [None].into_iter().chain(WALK.map(Some)) {
        if let Some((version, parts)) = step {
            let programs = if version == Newest { &newest } else { baseline };
            for &part in parts {
                server(&deployment, part).replace(program(programs, part)).await.unwrap();
                state.0.insert(part, version);
            }
        }
        tokio::time::sleep(time).await;
        let now = (source.counts().iter().sum::<u64>(), clients.connections());
        let (events, connections) = (now.0 - before.0, now.1 - before.1);
        show(format_args!("{state}: {events} events, {connections} subscriptions"));
        before = now;
    }
    let seconds = began.elapsed().as_secs_f64();
    sending.stop().await;
    chaos::until_all_arrived(&clients).await;
    let sent: u64 = source.counts().iter().sum();
    show(format_args!("{sent} events in {seconds:.0} s, {} subscriptions", clients.connections()));
    let verdict = clients.verdict(false);
    show(&verdict);
    let logs = deployment.dir.path().display();
    assert!(verdict.is_clean(false), "the logs are in {logs}\n{verdict}");
    let refused = verdict.refused();
    assert!(refused.is_empty(), "the logs are in {logs}; error replies: {refused:?}");
}
