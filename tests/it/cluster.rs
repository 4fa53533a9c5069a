//! Three NATS servers: an edge reads events at the one that leads the stream, and follows it.

use async_nats::jetstream;
use blackhole_dev::{brokers::Nats, ports, services::Service, simulator::Publisher, workspace::RunDir};
use blackhole_tests::{
    accounts::Account,
    chaos::deployment::Deployment,
    client::Client,
    events, eventually,
    stack::{self, Stack},
};

/// The server that leads the stream.
async fn leader(jetstream: &jetstream::Context) -> Option<String> {
    jetstream.get_stream("BLACKHOLE_V1").await.ok()?.info().await.ok()?.cluster.as_ref()?.leader.clone()
}

/// The server to which an edge has connected last.
fn server_of(deployment: &Deployment, edge: usize) -> Option<String> {
    let log = deployment.dir.path().join(format!("ws-edge-{edge}.log"));
    let log = std::fs::read_to_string(log).unwrap();
    let line = log.lines().rev().find(|line| line.contains("connected for events"))?;
    Some(line.split("server=").nth(1)?.trim_matches('"').to_owned())
}

#[tokio::test]
async fn edges_read_at_the_server_that_leads_the_stream_and_follow_it() {
    let deployment = Deployment::start(true).await;
    let urls: Vec<String> = deployment.nats.servers().iter().map(|server| server.url()).collect();
    let nats = async_nats::connect(urls).await.unwrap();
    let jetstream = jetstream::new(nats.clone());
    let are_at_the_leader = async || {
        let leader = leader(&jetstream).await;
        leader.is_some() && [1, 2].iter().all(|edge| server_of(&deployment, *edge) == leader)
    };
    eventually("both edges at the leader", || async { are_at_the_leader().await }).await;

    let account = Account::fresh();
    let mut clients = Vec::new();
    for edge in &deployment.edges {
        Stack::until_ready(&edge.service, true).await;
        let mut client = Client::connect(&format!("ws://127.0.0.1:{}/?view=args", edge.port)).await;
        client.subscribe(&account, &["call.*.*"]).await;
        clients.push(client);
    }
    let publisher = Publisher::connect(&deployment.rabbitmq.url()).await.unwrap();
    for round in ["one", "two", "three"] {
        let before = leader(&jetstream).await;
        // The servers may elect the same one again.
        eventually("another leader", || async {
            let now = leader(&jetstream).await;
            if now == before {
                let step_down = "$JS.API.STREAM.LEADER.STEPDOWN.BLACKHOLE_V1";
                // Without a leader nobody answers.
                let _ = nats.request(step_down, "".into()).await;
            }
            now.is_some() && now != before
        })
        .await;
        eventually("both edges at the new leader", || async { are_at_the_leader().await }).await;
        events::call(&account, "CHANNEL_CREATE", round).publish(&publisher).await;
        for client in &mut clients {
            assert_eq!(client.event().await["args"]["Call-ID"], round);
        }
    }
}

#[tokio::test]
async fn an_edge_leaves_a_server_that_is_cut_off_from_its_cluster() {
    let dir = RunDir::create("cut-off").unwrap();
    let (listen, nobody) = (ports::free().unwrap(), ports::free().unwrap());
    let alone = format!(
        "server_name: alone\n\
         cluster {{ name: c, listen: \"127.0.0.1:{listen}\", routes: [\"nats://127.0.0.1:{nobody}\"] }}"
    );
    let alone = Nats::with_config(&dir.subdir("alone").unwrap(), &alone).await.unwrap();
    let whole = Nats::start(&dir.subdir("whole").unwrap()).await.unwrap();
    let env = [
        // The first is tried first.
        ("NATS__URL", format!("{},{}", alone.url(), whole.url())),
        ("WS__LISTEN", format!("127.0.0.1:{}", ports::free().unwrap())),
    ];
    let edge = Service::start_unready("ws-edge", &stack::binaries().ws_edge, dir.path(), &env).await.unwrap();
    Stack::until_ready(&edge, true).await;
    let log = std::fs::read_to_string(dir.path().join("ws-edge.log")).unwrap();
    assert!(log.contains("error=the server's JetStream does not answer"), "{log}");
}
