//! The metrics of running services: each is documented, Prometheus' own tool accepts them, and they say what happens.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use blackhole_dev::{install, workspace};
use blackhole_tests::{
    accounts::Account, client::Client, events, eventually, prometheus::Prometheus, raw::RawClient,
    stack::Stack,
};

/// The metrics of all three services in Prometheus' older text format, which promtool reads. OpenMetrics names a counter
/// without its suffix, and knows infos.
fn older_format(openmetrics: &str) -> String {
    let mut counters = BTreeSet::new();
    let mut lines = Vec::new();
    let mut helps: Vec<(String, String)> = Vec::new();
    for line in openmetrics.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, text] => helps.push(((*name).to_owned(), (*text).to_owned())),
            ["#", "TYPE", name, kind] => {
                let name = match *kind {
                    "counter" => format!("{name}_total"),
                    "info" => format!("{name}_info"),
                    _ => (*name).to_owned(),
                };
                counters.insert(name.clone());
                let (_, help) = helps.pop().unwrap();
                let kind = if *kind == "info" { "gauge" } else { kind };
                lines.push(format!("# HELP {name} {help}\n# TYPE {name} {kind}"));
            }
            ["#", ..] => {}
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

/// The names of the metrics in the older format.
fn names(older: &str) -> BTreeSet<String> {
    older
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned))
        .collect()
}

/// The metrics in the section of the documentation, with their labels as it writes them.
fn documented() -> Vec<String> {
    let page = std::fs::read_to_string(workspace::root().unwrap().join("docs/operations.md")).unwrap();
    let (_, section) = page.split_once("\n## Metrics\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let spans = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    spans.map(str::to_owned).collect()
}

#[tokio::test]
async fn each_metric_is_documented_and_accepted_by_promtool() {
    let stack = Stack::shared();
    let mut all = BTreeSet::new();
    for service in [&stack.amqp_ingest, &stack.auth_svc, &stack.edge.service] {
        let text = older_format(&service.metrics().await.unwrap());
        all.extend(names(&text));
        let mut check = Command::new(install::find(install::PROMTOOL).unwrap());
        let mut check =
            check.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = check.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let documented = documented();
    let name = |metric: &String| metric.split('{').next().unwrap().to_owned();
    let names: BTreeSet<String> = documented.iter().map(name).collect();
    assert_eq!(all.difference(&names).collect::<Vec<_>>(), Vec::<&String>::new(), "not documented");
    // One with labels may not have been counted yet.
    let missing: Vec<_> =
        documented.iter().filter(|metric| !metric.contains('{') && !all.contains(&name(metric))).collect();
    assert!(missing.is_empty(), "documented, but not there: {missing:?}");
}

#[tokio::test]
async fn an_event_is_measured_from_amqp_to_the_sockets() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let count = r#"blackhole_edge_delivery_seconds_count{exchange="callevt"}"#;
    let measured = async || {
        let metrics = stack.edge.service.metrics().await.unwrap();
        let value = metrics.lines().find_map(|line| line.strip_prefix(count)?.trim().parse::<u64>().ok());
        value.unwrap_or_default()
    };
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.CHANNEL_CREATE.*"]).await;
    let before = measured().await;
    events::call(&account, "CHANNEL_CREATE", "x").publish(&stack.publisher().await).await;
    client.event().await;
    eventually("the measurement, which follows the frame", || async { measured().await > before }).await;
    let metrics = stack.edge.service.metrics().await.unwrap();
    let minute = r#"blackhole_edge_delivery_seconds_bucket{le="16.384",exchange="callevt"}"#;
    assert!(Stack::sum(&metrics, "blackhole_edge_sessions_limit") >= 50_000.0);
    assert!(metrics.lines().any(|line| line.starts_with(minute)), "{metrics}");
    // Nothing is missing: the edge is sure of it within a second or two.
    eventually("all events are known to be complete", || async {
        Stack::metric(&stack.edge.service, "blackhole_edge_events_unverified").await == 0.0
    })
    .await;
}

/// What a stack without CouchDB, without KAZOO's requests and without greedy clients does not have.
const ABSENT: [&str; 3] =
    ["blackhole_auth_couchdb_", "blackhole_ingest_requests_total", "blackhole_edge_requests_limited_total"];

/// The queries of the dashboard, over a few seconds.
fn queries() -> Vec<String> {
    let file = workspace::root().unwrap().join("deploy/prometheus/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "10s")).collect()
}

#[tokio::test]
async fn prometheus_answers_the_dashboard_and_fires_alerts_for_real_faults() {
    let stack = Stack::start("prometheus-stack").await;
    let prometheus = Prometheus::start(&[&stack.amqp_ingest, &stack.auth_svc, &stack.edge.service]).await;
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.CHANNEL_CREATE.*"]).await;
    let publisher = stack.publisher().await;

    // Something of everything, until each panel has data.
    for query in queries() {
        let (prometheus, publisher, query) = (&prometheus, &publisher, &query);
        let has_data = || async {
            events::call(&account, "CHANNEL_CREATE", "x").publish(publisher).await;
            Client::connect(&stack.edge.url("")).await.close().await;
            let mut stranger = RawClient::connect(stack.edge.port).await;
            stranger.send("GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n".to_owned()).await;
            stranger.response().await;
            prometheus.series(query).await > 0 || ABSENT.iter().any(|metric| query.contains(metric))
        };
        eventually(query, has_data).await;
    }
    for alert in
        ["BlackholeServiceMissing", "BlackholePartMissing", "BlackholeDeadLetters", "BlackholeNoConsumer"]
    {
        assert!(!prometheus.fires(alert).await, "{alert}");
    }

    publisher.publish("callevt", "call.CHANNEL_CREATE.x", b"[").await.unwrap();
    eventually("BlackholeDeadLetters", || async { prometheus.fires("BlackholeDeadLetters").await }).await;

    stack.auth_svc.server().kill().await.unwrap();
    eventually("BlackholeServiceMissing", || async { prometheus.fires("BlackholeServiceMissing").await })
        .await;
    let asked = || async {
        let token = format!("Bearer {}", Account::fresh().token());
        let refused = Client::try_connect(&stack.edge.url(""), &[("Authorization", &token)]).await.err();
        assert_eq!(refused, Some(503));
        prometheus.fires("BlackholeAuthUnavailable").await
    };
    eventually("BlackholeAuthUnavailable", asked).await;

    stack.rabbitmq.server().kill().await.unwrap();
    eventually("BlackholeNoConsumer", || async { prometheus.fires("BlackholeNoConsumer").await }).await;
    stack.nats.server().kill().await.unwrap();
    eventually("BlackholePartMissing", || async { prometheus.fires("BlackholePartMissing").await }).await;
}
