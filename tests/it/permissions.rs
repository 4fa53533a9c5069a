//! The permissions of `deploy/nats/permissions.conf` suffice: every service does all of its work with them.

use blackhole_couchdb::kazoo;
use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    install, ports,
    services::Service,
    workspace::{self, RunDir},
};
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events, eventually,
    kazoo::Kazoo,
    stack::{self, Edge, Stack},
};
use serde_json::json;

use crate::doctor::doctor;

/// The users and permissions, with this password for all.
fn deployed() -> String {
    let file = workspace::root().unwrap().join("deploy/nats/permissions.conf");
    let mut text = std::fs::read_to_string(file).unwrap();
    for variable in PASSWORDS {
        text = text.replace(&format!("${variable}"), "\"choose-one\"");
    }
    text
}

/// Variables of nats-server's environment.
const PASSWORDS: [&str; 3] = ["NATS_INGEST_PASSWORD", "NATS_AUTH_PASSWORD", "NATS_EDGE_PASSWORD"];

#[test]
fn the_deployed_nats_configuration_is_valid() {
    let config = workspace::root().unwrap().join("deploy/nats/nats.conf");
    let check = |passwords: &[&str]| {
        let mut command = std::process::Command::new(install::find(install::NATS_SERVER).unwrap());
        command.arg("-t").arg("-c").arg(&config).envs(passwords.iter().map(|name| (*name, "pa55")));
        command.output().unwrap()
    };
    let checked = check(&PASSWORDS);
    assert!(checked.status.success(), "{checked:?}");
    assert!(!check(&PASSWORDS[1..]).status.success(), "a missing password is no empty one");
}

struct Protected {
    rabbitmq: RabbitMq,
    dir: RunDir,
    edge: Edge,
    _nats: Nats,
    services: [Service; 2],
    ingest_env: Vec<(&'static str, String)>,
}

impl Protected {
    async fn start(name: &str, ingest: &str, settings: &[(&'static str, &str)]) -> Protected {
        let dir = RunDir::create(name).unwrap();
        let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
        let config = deployed();
        let (rabbitmq, nats) =
            tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::with_config(&nats_dir, &config));
        let (rabbitmq, nats) = (rabbitmq.unwrap(), nats.unwrap());
        std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
        let port = ports::free().unwrap();
        let env = |user: &str| {
            let mut env = vec![
                ("NATS__URL", format!("nats://{user}:choose-one@127.0.0.1:{}", nats.port())),
                ("AMQP__URL", rabbitmq.url()),
                ("AUTH__ACCOUNTS_FILE", dir.path().join("accounts.toml").display().to_string()),
                ("AUTH__JWT__HS256_SECRET", accounts::SECRET.to_owned()),
                ("WS__LISTEN", format!("127.0.0.1:{port}")),
            ];
            env.extend(settings.iter().map(|(name, value)| (*name, (*value).to_owned())));
            env
        };
        let binaries = stack::binaries();
        let (ingest_env, auth_env, edge_env) = (env(ingest), env("auth-svc"), env("ws-edge"));
        let (ingest, auth_svc, edge) = tokio::join!(
            Service::start("amqp-ingest", &binaries.amqp_ingest, dir.path(), &ingest_env),
            Service::start("auth-svc", &binaries.auth_svc, dir.path(), &auth_env),
            Service::start("ws-edge", &binaries.ws_edge, dir.path(), &edge_env),
        );
        let edge = Edge { service: edge.unwrap(), port };
        let services = [ingest.unwrap(), auth_svc.unwrap()];
        Protected { rabbitmq, dir, edge, _nats: nats, services, ingest_env }
    }

    /// Does what every deployment does.
    async fn exercise(&self) {
        let account = Account::fresh();
        let mut client = Client::connect(&self.edge.url("view=args")).await;
        client.subscribe(&account, &["call.*.*"]).await;
        let publisher = blackhole_dev::simulator::Publisher::connect(&self.rabbitmq.url()).await.unwrap();
        events::call(&account, "CHANNEL_CREATE", "one").publish(&publisher).await;
        assert_eq!(client.event().await["args"]["Call-ID"], "one");
        events::call_to(&account.number(), "10.0.0.4", "CHANNEL_CREATE", "two").publish(&publisher).await;
        let event = client.event().await;
        assert_eq!(event["args"]["Custom-Channel-Vars"]["Account-ID"], account.id, "{event}");
        events::call_to(&account.number(), "10.0.0.4", "CHANNEL_DESTROY", "two").publish(&publisher).await;
        assert_eq!(client.event().await["args"]["Event-Name"], "CHANNEL_DESTROY");
        let mut kazoo = Kazoo::start(&self.rabbitmq, "apps-1").await;
        let sockets = kazoo.sockets(json!({ "Account-ID": account.id })).await;
        assert_eq!(sockets["Data"].as_array().map(Vec::len), Some(1), "{sockets}");
        let stopped = json!({ "Module": "bh_call", "Action": "stop", "Persist": true });
        let answer = kazoo.module(stopped).await;
        assert_eq!((&answer["Persisted"], &answer["Error"]), (&json!(true), &json!(null)), "{answer}");
        eventually("the stop", || async {
            Stack::metric(&self.edge.service, "blackhole_edge_families_stopped").await == 1.0
        })
        .await;
        let relay = json!({ "Server-ID": "apps-1", "params": { "Text": "hi" } });
        client.request(json!({ "action": "relay.publish", "data": relay })).await;
        self.examine(&account);
    }

    /// The doctor finds nothing wrong, and needs no permission that the ingest does not have.
    fn examine(&self, account: &Account) {
        let (edge, token) = (format!("ws://127.0.0.1:{}", self.edge.port), self.dir.path().join("token"));
        std::fs::write(&token, account.token()).unwrap();
        let arguments =
            ["--edge", &edge, "--token-file", &token.display().to_string(), "--account", &account.id];
        let (is_right, text) = doctor(&self.ingest_env, &arguments);
        assert!(is_right, "{text}");
        for expected in ["blackhole-edge: 1 of ", ": 1 session\n", &format!("to {edge}: an event came after")]
        {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    fn assert_nothing_was_refused(&self) {
        let log = std::fs::read_to_string(self.dir.path().join("nats/nats.log")).unwrap();
        let refused: Vec<&str> = log.lines().filter(|line| line.contains("Violation")).collect();
        assert!(refused.is_empty(), "{refused:#?}");
    }
}

#[tokio::test]
async fn the_deployed_permissions_suffice() {
    let protected = Protected::start("permissions", "amqp-ingest", &[]).await;
    protected.exercise().await;
    // A replay of the history.
    let account = Account::fresh();
    let mut client = Client::connect(&protected.edge.url("view=args")).await;
    let data = json!({ "account_id": account.id, "bindings": ["fax.status.*"], "since": "-5m" });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    assert_eq!(client.request(request).await["status"], "success");
    let publisher = blackhole_dev::simulator::Publisher::connect(&protected.rabbitmq.url()).await.unwrap();
    events::fax(&account, "f1").publish(&publisher).await;
    assert_eq!(client.event().await["args"]["Job-ID"], "f1");
    // The state.
    eventually("the fax in the state", || async {
        let mut client = Client::connect(&protected.edge.url("view=args")).await;
        let data = json!({ "account_id": account.id, "bindings": ["fax.status.*"], "state": true });
        let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
        client.request(request).await["data"]["state"] == true
            && client.frame().await["args"]["Job-ID"] == "f1"
    })
    .await;
    let mut ended = events::fax(&account, "f1");
    ended.body["Fax-State"] = "end".into();
    ended.publish(&publisher).await;
    let things = "blackhole_ingest_state_things";
    eventually("nothing that lives", || async { Stack::metric(&protected.services[0], things).await <= 1.0 })
        .await;
    protected.assert_nothing_was_refused();
}

#[tokio::test]
async fn the_deployed_permissions_suffice_without_history() {
    let settings = [("HISTORY__MAX_AGE", "0s")];
    let protected = Protected::start("permissions-live", "amqp-ingest-without-history", &settings).await;
    protected.exercise().await;
    protected.assert_nothing_was_refused();
}

#[tokio::test]
async fn the_deployed_permissions_suffice_with_couchdb() {
    let couchdb = kazoo::start().await;
    let url = couchdb.url();
    let settings = [
        ("AUTH__COUCHDB__URL", url.as_str()),
        ("AUTH__USERS", "own"),
        // The accounts and tokens of the other tests are needed, too.
        ("AUTH__JWT__DANGEROUS_SECRET_BESIDE_KEYS", "true"),
    ];
    let protected = Protected::start("permissions-couchdb", "amqp-ingest", &settings).await;
    protected.exercise().await;
    let mut client = Client::connect(&protected.edge.url("view=args")).await;
    client.subscribe_with(kazoo::token("user"), kazoo::ACME, &["fax.status.*"]).await;
    couchdb.edit(kazoo::ACME_DATABASE, kazoo::USER, &json!({ "pvt_signature_secret": "new" }));
    let publisher = blackhole_dev::simulator::Publisher::connect(&protected.rabbitmq.url()).await.unwrap();
    events::document_in(kazoo::ACME_ENCODED, "doc_edited", "user", kazoo::USER).publish(&publisher).await;
    let reason = "failed to authenticate token : bad identity signature";
    assert_eq!(client.frame().await["data"]["revoked"][0]["reason"], reason);
    protected.assert_nothing_was_refused();
}
