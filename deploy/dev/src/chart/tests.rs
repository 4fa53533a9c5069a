//! What can be said of the chart without helm: its values against the services' own configuration.

use std::collections::BTreeSet;

use amqp_ingest::IngestConfig;
use auth_svc::config::AuthSvcConfig;
use blackhole_common::config::{self, Configuration, UnknownKeys};
use serde_json::Value;
use ws_edge::config::EdgeConfig;

use super::*;

/// The chart sets these itself: ports and probes depend on them.
const OF_THE_CHART: [&str; 3] = ["admin.listen", "ws.listen", "ws.tls.listen"];
/// These belong into a Secret, so the values have no place for them.
const SECRETS: [&str; 5] =
    ["admin.token", "amqp.brokers", "amqp.url", "auth.couchdb.password", "auth.jwt.hs256_secret"];

fn read(path: &str) -> String {
    std::fs::read_to_string(workspace::root().unwrap().join(CHART).join(path)).unwrap()
}

/// The keys of a table, as the service lists them when it refuses an unknown one.
fn keys<C: Configuration>(table: &str) -> BTreeSet<String> {
    let file = std::env::temp_dir().join(format!("blackhole-chart-{}-{table}.toml", std::process::id()));
    std::fs::write(&file, format!("[{table}]\nno_such_key = 1\n")).unwrap();
    let refused = config::load::<C>(Some(&file), UnknownKeys::Refuse).err();
    std::fs::remove_file(&file).unwrap();
    let error = refused.unwrap().to_string();
    let (_, known) = error.split_once("unknown key; there are ").unwrap_or_else(|| panic!("{error}"));
    known.split(", ").map(str::to_owned).collect()
}

/// The keys of a table that the chart's schema knows.
fn values(schema: &Value, table: &str) -> BTreeSet<String> {
    let found =
        table.split('.').fold(&schema["properties"]["config"], |schema, name| &schema["properties"][name]);
    assert_eq!(found["additionalProperties"], false, "{table}: misspelt keys would be accepted");
    found["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_values_have_the_keys_of_the_services() {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    for (table, known) in [
        ("nats", keys::<EdgeConfig>("nats")),
        ("log", keys::<EdgeConfig>("log")),
        ("admin", keys::<EdgeConfig>("admin")),
        ("catalogue", keys::<EdgeConfig>("catalogue")),
        ("ws", keys::<EdgeConfig>("ws")),
        ("ws.tls", keys::<EdgeConfig>("ws.tls")),
        ("ws.rate", keys::<EdgeConfig>("ws.rate")),
        ("ws.refused_tokens", keys::<EdgeConfig>("ws.refused_tokens")),
        ("amqp", keys::<IngestConfig>("amqp")),
        ("history", keys::<IngestConfig>("history")),
        ("auth", keys::<AuthSvcConfig>("auth")),
        ("auth.jwt", keys::<AuthSvcConfig>("auth.jwt")),
        ("auth.crossbar", keys::<AuthSvcConfig>("auth.crossbar")),
        ("auth.couchdb", keys::<AuthSvcConfig>("auth.couchdb")),
    ] {
        let is_no_value = |key: &&String| {
            let key = format!("{table}.{key}");
            OF_THE_CHART.contains(&key.as_str()) || SECRETS.contains(&key.as_str())
        };
        let expected: BTreeSet<String> = known.iter().filter(|key| !is_no_value(key)).cloned().collect();
        assert_eq!(values(&schema, table), expected, "{table}");
    }
}

#[test]
fn the_ports_are_those_of_the_services() {
    fn port<C: Configuration>() -> u16 {
        toml::from_str::<C>("").unwrap().admin().unwrap().port()
    }
    let helpers = read("templates/_helpers.tpl");
    for (service, port) in [
        ("amqp-ingest", port::<IngestConfig>()),
        ("auth-svc", port::<AuthSvcConfig>()),
        ("ws-edge", port::<EdgeConfig>()),
    ] {
        let line = format!("name: {service}, admin: {port},");
        assert!(helpers.contains(&line), "_helpers.tpl does not say {line}");
    }
    let clients = EdgeConfig::default().ws.listen.port();
    assert!(read("templates/services.yaml").contains(&format!("name: ws, containerPort: {clients} ")));
}

#[test]
fn the_chart_is_of_this_release() {
    let release = format!("\nappVersion: {}\n", env!("CARGO_PKG_VERSION"));
    assert!(read("Chart.yaml").contains(&release), "Chart.yaml is not of{release}");
}

#[test]
fn alerts_and_dashboard_are_those_of_prometheus() {
    for file in ["alerts.yaml", "dashboard.json"] {
        let prometheus = workspace::root().unwrap().join("deploy/prometheus").join(file);
        assert_eq!(read(&format!("files/{file}")), std::fs::read_to_string(prometheus).unwrap());
    }
}

#[test]
fn the_configuration_of_a_service_is_found_in_rendered_objects() {
    let objects = "---\nkind: ConfigMap\nmetadata:\n  labels:\n    app.kubernetes.io/component: ws-edge\ndata:\n  \
                   blackhole.toml: |\n    [ws]\n    drain = \"1m\"\n    \n    [log]\n    a = 1\n---\nkind: Service\n";
    assert_eq!(
        configuration::of(objects),
        [("ws-edge".to_owned(), "[ws]\ndrain = \"1m\"\n\n[log]\na = 1".to_owned())]
    );
}
