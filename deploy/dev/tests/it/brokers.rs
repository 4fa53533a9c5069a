//! Brokers are started, killed and restarted, and leave no process behind when their owner dies.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::jetstream::stream::Config as StreamConfig;
use blackhole_dev::brokers::{Nats, RabbitMq};
use blackhole_dev::ports;
use blackhole_dev::process::{Process, Signal, Spec};
use blackhole_dev::workspace::RunDir;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};

/// The command lines of processes whose environment or command line contains this directory.
fn processes_of(dir: &Path) -> Vec<String> {
    let needle = dir.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let text = [read("cmdline"), read("environ")].concat();
        if String::from_utf8_lossy(&text).contains(&needle) {
            found.push(String::from_utf8_lossy(&read("cmdline")).replace('\0', " "));
        }
    }
    found
}

async fn wait_until_none_of(dir: &Path) {
    for _ in 0..50 {
        if processes_of(dir).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(processes_of(dir), [""; 0], "left behind");
}

async fn jetstream(nats: &Nats) -> async_nats::jetstream::Context {
    async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap())
}

#[tokio::test]
async fn nats_keeps_its_port_and_store_when_it_is_killed() {
    let run = RunDir::create("test-nats").unwrap();
    let nats = Nats::start(&run.subdir("nats").unwrap()).await.unwrap();
    let config = StreamConfig { name: "kept".into(), ..StreamConfig::default() };
    let stream = jetstream(&nats).await.create_stream(config).await.unwrap();
    let created = stream.cached_info().created;
    let first = nats.server().process().unwrap().id();
    nats.server().kill().await.unwrap();
    assert!(ports::is_free(nats.port()));
    nats.server().start_again().await.unwrap();
    assert_ne!(nats.server().process().unwrap().id(), first);
    let health = blackhole_dev::http::get(&nats.monitor(), "/healthz").await.unwrap();
    assert_eq!(health.status, 200);
    let kept = jetstream(&nats).await.get_stream("kept").await.unwrap();
    assert_eq!(kept.cached_info().created, created);
    nats.server().restart().await.unwrap();
    assert!(nats.server().is_ready().await);
    let port = nats.port();
    drop(nats);
    assert!(ports::is_free(port));
    wait_until_none_of(run.path()).await;
    run.remove().unwrap();
}

#[tokio::test]
async fn rabbitmq_keeps_durable_messages_when_it_is_killed_and_leaves_no_process() {
    let run = RunDir::create("test-rabbitmq").unwrap();
    let rabbit = RabbitMq::start(&run.subdir("rabbitmq").unwrap()).await.unwrap();
    let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("kept".into(), durable, FieldTable::default()).await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let persistent = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let confirm =
        channel.basic_publish("".into(), "kept".into(), options, b"event", persistent).await.unwrap();
    assert!(confirm.await.unwrap().is_ack());
    assert_eq!(rabbit.queues().await.unwrap(), [("kept".to_owned(), 1)]);

    rabbit.close_all_connections().await.unwrap();
    assert!(channel.basic_get("kept".into(), BasicGetOptions::default()).await.is_err());

    rabbit.server().kill().await.unwrap();
    assert!(ports::is_free(rabbit.port()));
    rabbit.server().start_again().await.unwrap();
    let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let kept = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
    assert_eq!(kept.delivery.data, b"event");

    rabbit.stop().await.unwrap();
    wait_until_none_of(run.path()).await;

    rabbit.server().start_again().await.unwrap_err();
    drop(rabbit);
    wait_until_none_of(run.path()).await;
    run.remove().unwrap();
}

/// The program that the next test starts and kills.
#[tokio::test]
#[ignore = "started by another test"]
async fn hold_brokers_until_killed() {
    let dir = PathBuf::from(std::env::var_os("HOLD_BELOW").unwrap());
    let _nats = Nats::start(&dir.join("nats")).await.unwrap();
    let _rabbit = RabbitMq::start(&dir.join("rabbitmq")).await.unwrap();
    std::fs::write(dir.join("ready"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn brokers_die_when_their_owner_is_killed() {
    let run = RunDir::create("test-killed").unwrap();
    let dir = run.subdir("of-the-owner").unwrap();
    let spec = Spec::new(std::env::current_exe().unwrap())
        .args(["--exact", "brokers::hold_brokers_until_killed", "--ignored"])
        .env("HOLD_BELOW", &dir)
        .log(run.path().join("owner.log"));
    let owner = Process::start(&spec).unwrap();
    while !dir.join("ready").exists() {
        assert!(
            owner.status().is_none(),
            "the owner ended before its brokers were ready: {}",
            owner.log_tail(20)
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(processes_of(&dir).len() >= 3);
    owner.signal(Signal::SIGKILL).unwrap();
    owner.exited().await.unwrap();
    wait_until_none_of(&dir).await;
    run.remove().unwrap();
}

#[tokio::test]
async fn a_server_that_fails_to_start_shows_its_log_and_leaves_no_process() {
    let run = RunDir::create("test-broken").unwrap();
    let dir = run.subdir("nats").unwrap();
    let error = Nats::with_config(&dir, "no_such_option: 1").await.unwrap_err().to_string();
    assert!(error.contains("nats-server ended before it was ready"), "{error}");
    assert!(error.contains("no_such_option"), "{error}");
    let missing = Process::start(&Spec::new("/no/such/program").log(dir.join("log"))).unwrap();
    assert_eq!(missing.exited().await.unwrap().code(), Some(127));
    wait_until_none_of(&dir).await;
    run.remove().unwrap();
}
