//! nats-server and its streams.

use async_nats::{
    HeaderMap,
    jetstream::{self, context::PublishErrorKind, stream::Config},
};
use blackhole_dev::{brokers::Nats, workspace::RunDir};
use blackhole_tests::eventually;
use futures_util::StreamExt;
use tokio::{io::AsyncWriteExt, net::TcpStream};

/// A server with a stream for `facts.>`.
struct Facts {
    nats: Nats,
    client: async_nats::Client,
    jetstream: jetstream::Context,
    _dir: RunDir,
}

impl Facts {
    async fn start(name: &str) -> Facts {
        let dir = RunDir::create(name).unwrap();
        let nats = Nats::start(&dir.subdir("nats").unwrap()).await.unwrap();
        let client = async_nats::connect(nats.url()).await.unwrap();
        let jetstream = jetstream::new(client.clone());
        let config = Config { name: "FACTS".into(), subjects: vec!["facts.>".into()], ..Config::default() };
        jetstream.create_stream(config).await.unwrap();
        Facts { nats, client, jetstream, _dir: dir }
    }

    /// Publishes with these headers. Returns the position, and whether it is that of a copy; or the code of the refusal.
    async fn publish(&self, headers: &[(&str, &str)]) -> Result<(u64, bool), u64> {
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| map.insert(*name, *value));
        let ack = self.jetstream.publish_with_headers("facts.x", map, "".into()).await.unwrap();
        match ack.await {
            Ok(ack) => Ok((ack.sequence, ack.duplicate)),
            Err(error) if error.kind() == PublishErrorKind::WrongLastSequence => Err(10071),
            Err(error) if error.kind() == PublishErrorKind::WrongLastMessageId => Err(10070),
            Err(error) => panic!("{error}"),
        }
    }

    async fn last(&self) -> u64 {
        self.jetstream.get_stream("FACTS").await.unwrap().cached_info().state.last_sequence
    }
}

#[tokio::test]
async fn a_stream_refuses_what_does_not_follow_the_expected_message() {
    let facts = Facts::start("facts-expected").await;
    let (id, position, last_id) = ("Nats-Msg-Id", "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Msg-Id");
    assert_eq!(facts.publish(&[(id, "a"), (position, "0")]).await, Ok((1, false)));
    assert_eq!(facts.publish(&[(id, "b"), (position, "0")]).await, Err(10071));
    assert_eq!(facts.publish(&[(id, "b"), (last_id, "x")]).await, Err(10070));
    assert_eq!(facts.last().await, 1, "what is refused is not stored");
    assert_eq!(facts.publish(&[(id, "b"), (position, "1"), (last_id, "a")]).await, Ok((2, false)));
    assert_eq!(facts.publish(&[(id, "a"), (position, "7")]).await, Ok((1, true)), "a copy is known before");
}

#[tokio::test]
async fn what_was_sent_before_the_end_of_a_connection_is_stored() {
    let facts = Facts::start("facts-end").await;
    let mut connection = TcpStream::connect(("127.0.0.1", facts.nats.port())).await.unwrap();
    connection.write_all(b"CONNECT {\"verbose\":false}\r\n").await.unwrap();
    for _ in 0..100 {
        connection.write_all(b"PUB facts.x 1\r\nx\r\n").await.unwrap();
    }
    connection.shutdown().await.unwrap();
    drop(connection);
    eventually("all are stored", async || facts.last().await == 100).await;
}

#[tokio::test]
async fn a_stream_that_is_gone_is_told_to_the_publisher() {
    let facts = Facts::start("facts-gone").await;
    facts.jetstream.delete_stream("FACTS").await.unwrap();
    let answer = facts.client.request("facts.x", "".into()).await;
    assert_eq!(answer.unwrap_err().kind(), async_nats::RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn a_consumer_sends_everything_from_a_position_on_and_says_how_much_follows() {
    let facts = Facts::start("facts-consumer").await;
    for _ in 0..5 {
        facts.publish(&[]).await.unwrap();
    }
    let mut messages = facts.client.subscribe("inbox.facts").await.unwrap();
    let request = serde_json::json!({
        "stream_name": "FACTS",
        "config": {
            "deliver_subject": "inbox.facts",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": 3,
            "ack_policy": "none",
        },
    });
    facts.client.publish("$JS.API.CONSUMER.CREATE.FACTS", request.to_string().into()).await.unwrap();
    for (position, follow) in [("3", "2"), ("4", "1"), ("5", "0")] {
        let reply = messages.next().await.unwrap().reply.unwrap();
        let words: Vec<&str> = reply.split('.').collect();
        assert_eq!((words[5], words[8]), (position, follow), "{reply}");
    }
}
