//! Messages of edges to a KAZOO process, through the broker of its zone.

use blackhole_common::wire::{Subjects, TargetedReply};
use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    services::Service,
    workspace::RunDir,
};
use blackhole_tests::{kazoo::Kazoo, soon, stack};
use serde_json::{Value, json};

async fn send(client: &async_nats::Client, request: Value) -> Option<String> {
    let request = request.to_string().into();
    let answer = soon("an answer", client.request(Subjects::new("blackhole.v1").targeted(), request)).await;
    serde_json::from_slice::<TargetedReply>(&answer.unwrap().payload).unwrap().error
}

#[tokio::test]
async fn a_message_reaches_the_process_in_its_zone() {
    let dir = RunDir::create("relay").unwrap();
    let below = |name: &str| dir.subdir(name).unwrap();
    let (east_dir, west_dir, nats_dir) = (below("east"), below("west"), below("nats"));
    let (east, west, nats) =
        tokio::join!(RabbitMq::start(&east_dir), RabbitMq::start(&west_dir), Nats::start(&nats_dir));
    let (east, west, nats) = (east.unwrap(), west.unwrap(), nats.unwrap());
    let brokers = format!(r#"[{{zone="east",url="{}"}},{{zone="west",url="{}"}}]"#, east.url(), west.url());
    let env = [("NATS__URL", nats.url()), ("AMQP__BROKERS", brokers)];
    let program = stack::binaries().amqp_ingest;
    let ingest = Service::start("amqp-ingest", &program, dir.path(), &env).await.unwrap();
    for zone in ["east", "west"] {
        let line = format!(r#"connection_up{{side="requests",zone="{zone}"}} 1"#);
        super::until_counted(&ingest, &line).await;
    }
    let client = async_nats::connect(nats.url()).await.unwrap();
    // The same id in both zones shows which broker delivered a message.
    let id = "kazoo_apps@apps01.example.com-conference-5f2a";
    let (mut in_east, mut in_west) = (Kazoo::start(&east, id).await, Kazoo::start(&west, id).await);
    let message = |text: &str| json!({ "Event-Name": "broadcast", "Text": text, "Ünï": [1.5, null] });

    let request = json!({ "server_id": id, "zone": "west", "body": message("for the west") });
    assert_eq!(send(&client, request).await, None);
    assert_eq!(in_west.message().await, message("for the west"));
    let request = json!({ "server_id": id, "body": message("for all") });
    assert_eq!(send(&client, request).await, None);
    assert_eq!(
        in_east.message().await,
        message("for all"),
        "the east has not received the message for the west"
    );
    assert_eq!(in_west.message().await, message("for all"));
    let request = json!({ "server_id": "nobody", "body": {} });
    assert_eq!(send(&client, request).await, None, "the broker has accepted it");

    for (request, error) in [
        (json!({ "server_id": "", "body": {} }), "server_id must have 1 to 255 bytes"),
        (json!({ "server_id": "s".repeat(256), "body": {} }), "server_id must have 1 to 255 bytes"),
        (json!({ "server_id": "a\u{1b}b", "body": {} }), "server_id must not have control characters"),
        (json!({ "server_id": id, "zone": "north", "body": {} }), "there is no such zone here"),
        (json!({ "server_id": id, "body": [] }), "the request cannot be read: "),
        (json!({ "server_id": id, "zone": 5, "body": {} }), "the request cannot be read: "),
    ] {
        let said = send(&client, request).await.unwrap();
        assert!(said.starts_with(error), "{said}");
    }

    west.server().kill().await.unwrap();
    super::until_counted(&ingest, r#"connection_up{side="requests",zone="west"} 0"#).await;
    let request = json!({ "server_id": id, "zone": "west", "body": message("unsent") });
    assert_eq!(send(&client, request).await.unwrap(), "zone west: the broker is away");
    let request = json!({ "server_id": id, "body": message("for the remaining zone") });
    assert_eq!(send(&client, request).await, None, "one broker is enough");
    assert_eq!(in_east.message().await, message("for the remaining zone"));
    west.server().start_again().await.unwrap();
    super::until_counted(&ingest, r#"connection_up{side="requests",zone="west"} 1"#).await;
    let mut in_west = Kazoo::start(&west, id).await;
    let request = json!({ "server_id": id, "zone": "west", "body": message("again") });
    assert_eq!(send(&client, request).await, None);
    assert_eq!(in_west.message().await, message("again"));
    let request = json!({ "server_id": id, "body": message("last") });
    assert_eq!(send(&client, request).await, None);
    assert_eq!(
        in_east.message().await,
        message("last"),
        "the east has not received the message for the west"
    );
    assert!(ingest.server().stop().await.unwrap().success());
}
