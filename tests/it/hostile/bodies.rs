//! Bodies of AMQP messages: invalid ones become dead letters, valid ones are delivered unchanged.

use std::{collections::HashMap, time::Duration};

use blackhole_dev::websocket::TEXT;
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events::{self, Event},
    raw::RawClient,
    soon,
    stack::Stack,
};
use futures_util::StreamExt;
use lapin::{
    BasicProperties, Consumer,
    options::{
        BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable},
};
use serde_json::json;

/// The dead-letter exchange, and the queue behind it.
const DEAD_LETTERS: &str = "blackhole-dead-letter";
/// `max_payload` of the NATS server.
const MAX_PAYLOAD: usize = 1 << 20;

/// Invalid bodies, each with the reason it is counted under.
fn invalid() -> Vec<(&'static str, Vec<u8>)> {
    let valid = br#"{"Event-Name":"CHANNEL_CREATE"}"#;
    let padded = |length: usize| {
        format!(r#"{{"Event-Name":"CHANNEL_CREATE","Padding":"{}"}}"#, "x".repeat(length)).into_bytes()
    };
    vec![
        ("not_json", b"".to_vec()),
        ("not_json", b"no json".to_vec()),
        ("not_json", b"{\"Event-Name\":".to_vec()),
        ("not_json", [valid.as_slice(), b"{}"].concat()),
        ("not_json", b"\x00\x01\x02\x83h\x02d".to_vec()),
        ("not_json", b"\xEF\xBB\xBF{\"Event-Name\":\"X\"}".to_vec()),
        ("not_json", br#"{"Event-Name":"X","a":1e999}"#.to_vec()),
        ("not_json", br#"{"Event-Name":"X","a":"\ud800"}"#.to_vec()),
        (
            "not_json",
            format!(r#"{{"Event-Name":"X","a":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000)).into_bytes(),
        ),
        ("not_an_object", "[".repeat(50_000).into_bytes()),
        ("not_an_object", b"[]".to_vec()),
        ("not_an_object", b"\"CHANNEL_CREATE\"".to_vec()),
        ("not_an_object", b"null".to_vec()),
        ("no_name", b"{}".to_vec()),
        ("no_name", br#"{"Event-Name":""}"#.to_vec()),
        ("no_name", br#"{"Event-Name":5}"#.to_vec()),
        ("no_name", format!(r#"{{"Event-Name":"{}"}}"#, "X".repeat(257)).into_bytes()),
        ("too_large", padded(MAX_PAYLOAD)),
        ("too_large", padded(3 * MAX_PAYLOAD)),
    ]
}

/// The counts of rejected events by reason.
async fn rejected() -> HashMap<String, u64> {
    let text = Stack::shared().amqp_ingest.metrics().await.unwrap();
    let lines =
        text.lines().filter_map(|line| line.strip_prefix("blackhole_ingest_events_rejected_total{reason=\""));
    lines
        .map(|line| line.split_once("\"} ").unwrap())
        .map(|(reason, count)| (reason.to_owned(), count.parse().unwrap()))
        .collect()
}

/// Consumes dead letters from its own queue, so that other tests do not take them.
async fn dead_letters(channel: &lapin::Channel) -> Consumer {
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
    let name = queue.name().clone();
    channel
        .queue_bind(
            name.clone(),
            DEAD_LETTERS.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    channel.basic_consume(name, "test".into(), options, FieldTable::default()).await.unwrap()
}

#[tokio::test]
async fn an_invalid_body_becomes_a_dead_letter_and_the_next_event_arrives() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    let channel = publisher.channel().await.unwrap();
    let mut letters = dead_letters(&channel).await;
    let before = rejected().await;

    let key = |number: usize| format!("call.CHANNEL_CREATE.{}-{number}", account.id);
    for (number, (_, body)) in invalid().iter().enumerate() {
        publisher.publish("callevt", &key(number), body).await.unwrap();
    }
    events::call(&account, "CHANNEL_CREATE", "after").publish(&publisher).await;
    assert_eq!(
        client.event().await["args"]["Call-ID"],
        "after",
        "invalid bodies neither arrive nor block later events"
    );

    let mut expected: HashMap<String, (&str, Vec<u8>)> =
        invalid().into_iter().enumerate().map(|(number, letter)| (key(number), letter)).collect();
    while !expected.is_empty() {
        let letter = soon("the dead letters", letters.next()).await.unwrap().unwrap();
        // Other tests cause dead letters too.
        if let Some((reason, body)) = expected.remove(letter.routing_key.as_str()) {
            assert!(
                letter.data == body,
                "the body of the {reason} dead letter {} has changed",
                letter.routing_key
            );
            assert_eq!(death(&letter), "rejected");
        }
    }
    let after = rejected().await;
    for reason in ["not_json", "not_an_object", "no_name", "too_large"] {
        let of_these = invalid().iter().filter(|(own, _)| *own == reason).count() as u64;
        assert!(after[reason] >= before[reason] + of_these, "{reason}: {before:?}, {after:?}");
    }
}

#[tokio::test]
async fn what_is_not_utf_8_in_a_body_is_replaced() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    let mut event = events::call(&account, "CHANNEL_CREATE", "latin-1");
    event.body["User-Agent"] = json!("T?l?phone");
    let mut body = event.body.to_string().into_bytes();
    for byte in body.iter_mut().filter(|byte| **byte == b'?') {
        *byte = 0xE9;
    }
    publisher.publish(event.exchange, &event.key, &body).await.unwrap();
    let received = client.event().await;
    assert_eq!(received["args"]["User-Agent"], "T\u{fffd}l\u{fffd}phone");
    assert_eq!(received["args"]["Call-ID"], "latin-1");
}

/// The reason that the broker gives for a dead letter.
fn death(letter: &lapin::message::Delivery) -> String {
    let headers = letter.properties.headers().as_ref().unwrap();
    match headers.inner().get("x-first-death-reason") {
        Some(AMQPValue::LongString(reason)) => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn dead_letters_are_kept_in_a_durable_queue() {
    let stack = Stack::shared();
    let publisher = stack.publisher().await;
    let channel = publisher.channel().await.unwrap();
    let mut letters = dead_letters(&channel).await;
    publisher.publish("callevt", "call.CHANNEL_CREATE.to-be-kept", b"no json").await.unwrap();
    let is_ours =
        |letter: &lapin::message::Delivery| letter.routing_key.as_str() == "call.CHANNEL_CREATE.to-be-kept";
    while !is_ours(&soon("the dead letter", letters.next()).await.unwrap().unwrap()) {}
    let queues = stack.rabbitmq.ctl(&["list_queues", "--no-table-headers", "name", "durable"]).await.unwrap();
    assert!(queues.lines().any(|queue| queue == format!("{DEAD_LETTERS}\ttrue")), "{queues}");
    // It is in that queue. Messages taken without an acknowledgement return when the channel closes.
    let kept = async {
        loop {
            let options = BasicGetOptions::default();
            match channel.basic_get(DEAD_LETTERS.into(), options).await.unwrap() {
                Some(letter) if is_ours(&letter.delivery) => return,
                Some(_) => {}
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    soon("the dead letter in the queue", kept).await;
}

#[tokio::test]
async fn a_valid_body_arrives_byte_for_byte() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut raw = RawClient::session(stack.edge.port, "view=args").await;
    let request =
        json!({ "action": "subscribe", "auth_token": account.token(), "data": { "binding": "call.*.*" } });
    raw.send_frame(TEXT, request.to_string()).await;
    assert!(raw.text().await.contains("success"));
    let publisher = stack.publisher().await;
    let nested = "[".repeat(100) + &"]".repeat(100);
    for members in [
        r#""a" : 1 ,  "a" : 2"#,
        r#""a":-0.0,"b":123456789012345678901234567890,"c":1E+2"#,
        r#""a":"\u0000\ud83d\ude00\/\"","\u0041":null"#,
        "\"a\":\"\u{2028}\u{7f}é\u{1f600}\"",
        r#""__proto__":{"constructor":1},"":"""#,
        r#""a":"</script>\r\nSUB > 1\r\n","view":"data""#,
        &format!("\"a\":{nested}"),
        &format!("\"a\":\"{}\"", "x".repeat(900_000)),
    ] {
        let own = format!(
            r#""Event-Name":"CHANNEL_CREATE","Custom-Channel-Vars":{{"Account-ID":"{}"}}"#,
            account.id
        );
        let body = format!("{{{own},{members}}}");
        publisher.publish("callevt", "call.CHANNEL_CREATE.x", body.as_bytes()).await.unwrap();
        assert!(raw.text().await.contains(&format!("\"args\":{body}")), "{members:.200}");
    }
}

#[tokio::test]
async fn an_event_name_may_be_any_text() {
    let account = Account::fresh();
    let stack = Stack::shared();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    for name in ["\"", "\\", "x\r\nNats-Rollup: all", "\u{0}", " ", "é\u{2028}\u{1f600}", &"x".repeat(256)] {
        let mut event = events::call(&account, "CHANNEL_CREATE", "x");
        event.body["Event-Name"] = json!(name);
        event.publish(&publisher).await;
        assert_eq!(client.event().await["name"], name);
    }
}

#[tokio::test]
async fn an_account_id_in_a_body_is_not_a_pattern() {
    let account = Account::fresh();
    let stack = Stack::shared();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.#"]).await;
    let publisher = stack.publisher().await;
    let (id, realm) = (&account.id, &account.realm);
    let forged = [
        format!("{id}.x"),
        format!("{id}.>"),
        format!("@{realm}"),
        realm.clone(),
        format!("{id} "),
        format!("{id}\u{0}"),
        id.to_uppercase(),
    ];
    for forged in
        forged.iter().map(String::as_str).chain(["*", ">", "#", "_", "", "=", "é", &"x".repeat(10_000)])
    {
        let mut event = events::call(&account, "CHANNEL_CREATE", "forged");
        event.body["Custom-Channel-Vars"] = json!({ "Account-ID": forged });
        event.publish(&publisher).await;
    }
    events::call(&account, "CHANNEL_CREATE", "sentinel").publish(&publisher).await;
    assert_eq!(client.events_until("sentinel").await, Vec::<serde_json::Value>::new());
}

#[tokio::test]
async fn unusual_amqp_properties_are_ignored() {
    let account = Account::fresh();
    let stack = Stack::shared();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let publisher = stack.publisher().await;
    let channel = publisher.channel().await.unwrap();
    let mut headers = FieldTable::default();
    headers.insert("Nats-Rollup".into(), AMQPValue::LongString("all\r\n\r\n".into()));
    let odd = [
        BasicProperties::default(),
        BasicProperties::default()
            .with_content_type("text/html; \u{1f600}".into())
            .with_content_encoding("gzip".into()),
        BasicProperties::default().with_timestamp(u64::MAX).with_message_id("a\r\nb\u{0}".into()),
        BasicProperties::default().with_headers(headers).with_priority(255).with_reply_to("é".into()),
    ];
    for (number, properties) in odd.into_iter().enumerate() {
        let Event { exchange, key, body } = events::call(&account, "CHANNEL_CREATE", &number.to_string());
        let body = body.to_string();
        let options = BasicPublishOptions::default();
        let confirm = channel
            .basic_publish(exchange.into(), key.into(), options, body.as_bytes(), properties)
            .await
            .unwrap();
        confirm.await.unwrap();
        assert_eq!(client.event().await["args"]["Call-ID"], number.to_string());
    }
}
