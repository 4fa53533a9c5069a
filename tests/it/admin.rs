//! The admin ports: health checks and metrics, who may list and drain, and no secrets in metrics and logs.

use std::collections::HashMap;

use blackhole_dev::{
    brokers::Nats,
    http, ports,
    process::{Process, Spec},
    services::Service,
    workspace::RunDir,
};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events,
    raw::RawClient,
    stack,
    stack::Stack,
};
use serde_json::json;

#[tokio::test]
async fn readiness_names_the_missing_connections() {
    let dir = RunDir::create("admin").unwrap();
    let env = [
        ("NATS__URL", format!("nats://127.0.0.1:{}", ports::free().unwrap())),
        ("WS__LISTEN", format!("127.0.0.1:{}", ports::free().unwrap())),
    ];
    let edge = Service::start_unready("ws-edge", &stack::binaries().ws_edge, dir.path(), &env).await.unwrap();
    blackhole_tests::eventually("liveness", || async {
        http::get(edge.admin(), "/health/live").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let ready = http::get(edge.admin(), "/health/ready").await.unwrap();
    assert_eq!((ready.status, ready.body.as_str()), (503, "waiting for nats, events\n"));
    // As the health check of a container does.
    let healthy = |admin: &str| {
        let mut check = std::process::Command::new(stack::binaries().ws_edge);
        check.arg("--check-health").env("BLACKHOLE_ADMIN__LISTEN", admin).output().unwrap()
    };
    let unready = healthy(edge.admin());
    assert_eq!(unready.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&unready.stderr), "ws-edge: not ready: waiting for nats, events\n");
    let shared = Stack::shared();
    assert!(healthy(shared.edge.service.admin()).status.success());
    for service in [&shared.edge.service, &shared.auth_svc, &shared.amqp_ingest] {
        let ready = http::get(service.admin(), "/health/ready").await.unwrap();
        assert_eq!((ready.status, ready.body.as_str()), (200, "ready\n"));
        assert_eq!(http::get(service.admin(), "/nothing").await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn lists_and_drain_need_the_admin_token_where_one_is_set() {
    const TOKEN: &str = "the-token-of-the-operator";
    let stack = Stack::shared();
    let file = stack.dir.path().join("admin-token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let settings = [("ADMIN__TOKEN_FILE", file.to_str().unwrap())];
    let edge = stack.another_edge("edge-admin-token", &settings).await;
    let ingest = stack.another_ingest("ingest-admin-token", &[("ADMIN__TOKEN", TOKEN)]).await;
    let status = async |admin: &str, request: &str, token: Option<&str>| {
        let (_, port) = admin.rsplit_once(':').unwrap();
        let mut client = RawClient::connect(port.parse().unwrap()).await;
        let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        client.send(format!("{request} HTTP/1.1\r\nHost: {admin}\r\n{header}\r\n")).await;
        client.response().await.status
    };
    for admin in [edge.service.admin(), ingest.admin()] {
        assert_eq!(status(admin, "GET /health/ready", None).await, 200);
        assert_eq!(status(admin, "GET /metrics", None).await, 200);
        assert_eq!(status(admin, "GET /sessions", None).await, 401);
        assert_eq!(status(admin, "GET /sessions", Some("the-token-of-somebody-else")).await, 401);
        // A new ingest has no answers of the edges yet.
        let listed = || async { status(admin, "GET /sessions", Some(TOKEN)).await == 200 };
        blackhole_tests::eventually("the list", listed).await;
    }
    assert_eq!(status(edge.service.admin(), "POST /drain", None).await, 401);
    assert_eq!(status(edge.service.admin(), "GET /health/ready", None).await, 200, "it does not drain");
    assert_eq!(status(edge.service.admin(), "POST /drain", Some(TOKEN)).await, 202);
    assert!(edge.service.server().process().unwrap().exited().await.unwrap().success());
    for log in ["edge-admin-token.log", "ingest-admin-token.log"] {
        let log = std::fs::read_to_string(stack.dir.path().join(log)).unwrap();
        assert!(!log.contains(TOKEN), "{log}");
    }
}

#[tokio::test]
async fn lists_and_drain_are_not_available_to_a_network_without_a_token() {
    let stack = Stack::shared();
    let port = ports::free().unwrap();
    let dir = RunDir::create("admin-everywhere").unwrap();
    let env = [
        ("NATS__URL", stack.nats.url()),
        ("WS__LISTEN", format!("127.0.0.1:{}", ports::free().unwrap())),
        ("ADMIN__LISTEN", format!("0.0.0.0:{port}")),
    ];
    let spec = env.iter().fold(Spec::new(stack::binaries().ws_edge), |spec, (name, value)| {
        spec.env(format!("BLACKHOLE_{name}"), value)
    });
    let _edge = Process::start(&spec.log(dir.path().join("ws-edge.log"))).unwrap();
    let admin = format!("127.0.0.1:{port}");
    blackhole_tests::eventually("readiness", || async {
        http::get(&admin, "/health/ready").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(http::get(&admin, "/metrics").await.unwrap().status, 200);
    let text = "not available without a token: set admin.token_file or admin.token, or let admin.listen be a loopback address\n";
    for refused in [http::get(&admin, "/sessions").await, http::post(&admin, "/drain").await] {
        let refused = refused.unwrap();
        assert_eq!((refused.status, refused.body.as_str()), (403, text));
    }
    assert_eq!(http::get(&admin, "/health/ready").await.unwrap().status, 200, "it does not drain");
}

#[tokio::test]
async fn user_and_password_in_the_nats_url_are_used_and_not_logged() {
    let dir = RunDir::create("login").unwrap();
    let login = "authorization { user: me, password: s3cr3t }";
    let nats = Nats::with_config(&dir.subdir("nats").unwrap(), login).await.unwrap();
    let env = [
        ("NATS__URL", nats.url().replace("nats://", "nats://me:s3cr3t@")),
        ("WS__LISTEN", format!("127.0.0.1:{}", ports::free().unwrap())),
    ];
    let edge = Service::start("ws-edge", &stack::binaries().ws_edge, dir.path(), &env).await.unwrap();
    assert!(edge.server().is_ready().await);
    let log = std::fs::read_to_string(dir.path().join("ws-edge.log")).unwrap();
    assert!(log.contains("nats://[hidden]@") && !log.contains("s3cr3t"), "{log}");
}

#[tokio::test]
async fn every_metric_has_help_and_type() {
    let stack = Stack::shared();
    let account = Account::fresh();
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    events::call(&account, "CHANNEL_CREATE", "counted").publish(&stack.publisher().await).await;
    client.event().await;
    for (service, expected) in [
        (
            &stack.edge.service,
            vec!["connections", "sessions", "subscriptions", "subjects", "events", "frames", "auth_calls"],
        ),
        (&stack.auth_svc, vec!["requests", "accounts"]),
        (&stack.amqp_ingest, vec!["events_received", "events_published", "events_rejected"]),
    ] {
        let text = service.metrics().await.unwrap();
        assert!(text.ends_with("# EOF\n"));
        let mut described: HashMap<&str, Vec<&str>> = HashMap::new();
        for line in text.lines() {
            if let Some((kind, rest)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(' ')) {
                let (name, what) = rest.split_once(' ').unwrap();
                assert!(!what.is_empty(), "{line}");
                described.entry(name).or_default().push(kind);
            }
        }
        for (name, kinds) in &described {
            assert!(name.starts_with("blackhole_") || name.starts_with("process_"), "{name}");
            assert!(kinds.contains(&"HELP") && kinds.contains(&"TYPE"), "{name}: {kinds:?}");
            for unit in ["seconds", "bytes"] {
                assert_eq!(
                    name.ends_with(&format!("_{unit}")),
                    kinds.contains(&"UNIT") && text.contains(&format!("# UNIT {name} {unit}")),
                    "{name}"
                );
            }
        }
        for name in expected {
            assert!(
                described.keys().any(|own| own.ends_with(&format!("_{name}"))),
                "{name} in {:?}",
                described.keys()
            );
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            // OpenMetrics: a family's samples have its name and one of these suffixes.
            let suffixes = ["", "_total", "_bucket", "_count", "_sum", "_info"];
            let is_of = |own: &&str| name.strip_prefix(*own).is_some_and(|suffix| suffixes.contains(&suffix));
            assert!(described.keys().any(is_of), "{line} is not described");
        }
    }
}

#[tokio::test]
async fn logs_and_metrics_contain_no_token_or_secret() {
    // Everything that the services can log.
    let stack = Stack::start_with("secrets", &[("LOG__FILTER", "trace"), ("LOG__FORMAT", "json")]).await;
    let account = Account::fresh();
    let token = account.token();
    let bad = format!("{token}-but-bad");
    let mut client = Client::connect(&stack.edge.url("")).await;
    client.subscribe(&account, &["call.*.*"]).await;
    let reply = client.request(json!({ "action": "ping", "auth_token": bad })).await;
    assert_eq!(reply["data"]["errors"], json!(["failed to authenticate token : bad signature"]));
    let header = format!("Bearer {token}");
    let upgraded = Client::try_connect(&stack.edge.url(""), &[("authorization", &header)]).await;
    assert!(upgraded.is_ok());
    events::call(&account, "CHANNEL_CREATE", "x").publish(&stack.publisher().await).await;
    client.event().await;

    // Whoever has the signature can restore the token.
    let signature = token.rsplit('.').next().unwrap();
    for (name, service) in
        [("ws-edge", &stack.edge.service), ("auth-svc", &stack.auth_svc), ("amqp-ingest", &stack.amqp_ingest)]
    {
        let log = std::fs::read_to_string(stack.dir.path().join(format!("{name}.log"))).unwrap();
        assert!(log.lines().count() > 1, "{name} logs nothing");
        // auth-svc logs each request, at this level.
        assert!(name != "auth-svc" || log.contains(r#""level":"DEBUG""#), "{log}");
        for line in log.lines() {
            let line: serde_json::Value =
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{name}: {error}: {line}"));
            assert!(line["timestamp"].is_string() && line["level"].is_string(), "{line}");
        }
        for (what, text) in [("log", log), ("metrics", service.metrics().await.unwrap())] {
            for secret in [signature, accounts::SECRET, "guest:guest"] {
                assert!(!text.contains(secret), "the {what} of {name} contains {secret}");
            }
        }
    }
}
