//! What can be said of alerts, runbooks and dashboard without Prometheus. `tests/it/metrics.rs` holds the documented metrics
//! against running services.

use std::collections::BTreeSet;

use super::*;

/// Of Prometheus' blackbox exporter.
const OF_OTHERS: [&str; 1] = ["probe_ssl_earliest_cert_expiry"];

fn read(path: &str) -> String {
    std::fs::read_to_string(workspace::root().unwrap().join(path)).unwrap()
}

/// The names of metrics in a text, without the suffixes that a histogram's series have.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    let names = words.filter(|word| {
        ["blackhole_", "process_", "probe_"].iter().any(|prefix| word.starts_with(prefix))
            && !word.ends_with('_')
    });
    names.map(|name| name.trim_end_matches("_bucket").trim_end_matches("_count")).collect()
}

fn documented(page: &str) -> BTreeSet<&str> {
    let (_, section) = page.split_once("\n## Metrics\n").unwrap();
    metrics(section.split_once("\n## ").unwrap().0)
}

/// The texts after `key` in lines of a file.
fn values<'t>(text: &'t str, key: &str) -> Vec<&'t str> {
    text.lines().filter_map(|line| line.trim_start().strip_prefix(key)).map(str::trim).collect()
}

#[test]
fn each_alert_has_a_runbook_and_a_test() {
    let (alerts, tests, runbooks) = (
        read("deploy/prometheus/alerts.yaml"),
        read("deploy/prometheus/alerts.test.yaml"),
        read("docs/runbooks.md"),
    );
    let names = values(&alerts, "- alert: ");
    assert!(names.len() >= 30, "{names:?}");
    assert_eq!(names, values(&runbooks, "## "), "a runbook for each, in the same order");
    let anchors = values(&alerts, "runbook: ");
    let expected: Vec<_> =
        names.iter().map(|name| format!("docs/runbooks.md#{}", name.to_lowercase())).collect();
    assert_eq!(anchors, expected);
    for name in names {
        assert!(
            tests.contains(&format!("{{alertname=\"{name}\"}}")),
            "alerts.test.yaml does not expect {name}"
        );
    }
}

#[test]
fn each_metric_that_is_used_is_documented() {
    let page = read("docs/operations.md");
    let documented = documented(&page);
    assert!(documented.len() > 50, "{documented:?}");
    for path in
        ["alerts.yaml", "alerts.test.yaml", "dashboard.json"].map(|file| format!("{DIRECTORY}/{file}"))
    {
        let text = read(&path);
        let used = metrics(&text);
        assert!(used.len() > 15, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&documented).filter(|name| !OF_OTHERS.contains(name)).collect();
        assert!(unknown.is_empty(), "{path} uses metrics that do not exist: {unknown:?}");
    }
    let text = read("docs/runbooks.md");
    let unknown: Vec<_> = metrics(&text).into_iter().filter(|name| !documented.contains(name)).collect();
    assert!(unknown.is_empty(), "docs/runbooks.md: {unknown:?}");
}

#[test]
fn each_panel_of_the_dashboard_has_queries() {
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/prometheus/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let graphs: Vec<_> = panels.iter().filter(|panel| panel["type"] != "row").collect();
    assert!(graphs.len() > 20);
    for panel in graphs {
        let targets = panel["targets"].as_array().unwrap();
        let has_query = |target: &serde_json::Value| !metrics(target["expr"].as_str().unwrap()).is_empty();
        assert!(!targets.is_empty() && targets.iter().all(has_query), "{panel}");
    }
}
