//! An ingest of an earlier release beside the newest: it has requests in a queue of another name.

use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

use super::{
    Deployment,
    edge::{Behaviour, Edge, session},
};

const FORMER_QUEUE: &str = "blackhole-ingest-requests";
const QUEUE: &str = "blackhole-ingest-queries";

/// The queue as the earlier release declares, binds and consumes it. It is deleted with the connection.
struct Former {
    requests: Consumer,
    connection: Connection,
}

impl Former {
    async fn start(url: &str) -> Former {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(5_000));
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1_000));
        let options = QueueDeclareOptions { auto_delete: true, ..Default::default() };
        channel.queue_declare(FORMER_QUEUE.into(), options, arguments).await.unwrap();
        for (exchange, key) in [("sysconf", "websockets.get"), ("kapps", "ws.module_req")] {
            let (options, none) = (QueueBindOptions::default(), FieldTable::default());
            channel
                .queue_bind(FORMER_QUEUE.into(), exchange.into(), key.into(), options, none)
                .await
                .unwrap();
        }
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let none = FieldTable::default();
        let requests =
            channel.basic_consume(FORMER_QUEUE.into(), "former".into(), options, none).await.unwrap();
        Former { requests, connection }
    }

    async fn request(&mut self) -> String {
        let request = blackhole_tests::soon("a request", self.requests.next()).await.unwrap().unwrap();
        let request: serde_json::Value = serde_json::from_slice(&request.data).unwrap();
        request["Msg-ID"].as_str().unwrap().to_owned()
    }
}

/// Waits until the queue of the newest release is bound, or is not.
async fn until_bound(deployment: &Deployment, bound: bool) {
    blackhole_tests::eventually("the bindings", || async {
        let columns = ["list_bindings", "--no-table-headers", "destination_name", "routing_key"];
        let bindings = deployment.rabbitmq.ctl(&columns).await.unwrap();
        bindings.contains(&format!("{QUEUE}\twebsockets.get")) == bound
    })
    .await;
}

#[tokio::test]
async fn beside_an_earlier_release_each_request_is_answered_once() {
    let deployment = Deployment::start("former").await;
    let client = deployment.client().await;
    let _edge = Edge::start(&client, "edge-a", Behaviour::Complete, vec![session("a1", "acc")]).await;
    let mut kazoo = deployment.kazoo("crossbar").await;
    let account = json!({ "Account-ID": "acc" });
    until_bound(&deployment, true).await;
    assert_eq!(kazoo.sockets(account.clone()).await["Data"][0]["websocket_session_id"], "a1");

    // The earlier release comes, such as after a rollback.
    let mut former = Former::start(&deployment.rabbitmq.url()).await;
    until_bound(&deployment, false).await;
    for _ in 0..10 {
        let id = kazoo.ask("sysconf", "websockets.get", "get_req", account.clone()).await;
        assert_eq!(former.request().await, id);
    }
    assert_eq!(deployment.counted("sessions", "done").await, 1, "the newest answered none of them");

    // The newest release starts while the earlier one runs.
    deployment.ingest.server().restart().await.unwrap();
    deployment.until_answering(&deployment.ingest).await;
    let id = kazoo.ask("sysconf", "websockets.get", "get_req", account.clone()).await;
    assert_eq!(former.request().await, id);
    assert_eq!(deployment.counted("sessions", "done").await, 0);

    // It goes.
    former.connection.close(200, "upgraded".into()).await.unwrap();
    until_bound(&deployment, true).await;
    assert!(kazoo.sockets(account).await["Data"].is_array());
    assert_eq!(deployment.counted("sessions", "done").await, 1);
}
