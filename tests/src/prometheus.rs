//! A real Prometheus with the project's alerts, which looks at services every second.

use std::time::Duration;

use blackhole_dev::{
    http, install, ports,
    process::Spec,
    server::{Ready, Server},
    services::Service,
    workspace::{self, RunDir},
};
use serde_json::Value;

const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Prometheus.
pub struct Prometheus {
    _server: Server,
    _dir: RunDir,
    address: String,
}

impl Prometheus {
    /// Starts it. Alerts fire at once, without the time for which their condition has to hold otherwise.
    pub async fn start(services: &[&Service]) -> Prometheus {
        let dir = RunDir::create("prometheus").unwrap();
        let alerts = workspace::root().unwrap().join("deploy/prometheus/alerts.yaml");
        let alerts = std::fs::read_to_string(alerts).unwrap();
        let at_once = alerts.lines().filter(|line| !line.trim_start().starts_with("for: "));
        std::fs::write(dir.path().join("alerts.yaml"), at_once.collect::<Vec<_>>().join("\n")).unwrap();
        let targets: Vec<_> = services.iter().map(|service| format!("'{}'", service.admin())).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [alerts.yaml]\n\
             scrape_configs: [{{ job_name: blackhole, static_configs: [{{ targets: [{}] }}] }}]\n",
            targets.join(", ")
        );
        std::fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let address = format!("127.0.0.1:{}", ports::free().unwrap());
        let spec = Spec::new(install::find(install::PROMETHEUS).unwrap())
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .log(dir.path().join("prometheus.log"));
        let ready = Ready::Http(address.clone(), "/-/ready".into());
        let server = Server::start("prometheus", spec, ready, READY_TIMEOUT).await.unwrap();
        Prometheus { _server: server, _dir: dir, address }
    }

    /// The number of series that a query returns.
    ///
    /// # Panics
    /// If Prometheus refuses it.
    pub async fn series(&self, query: &str) -> usize {
        let encoded: String = url::form_urlencoded::byte_serialize(query.as_bytes()).collect();
        let answer = http::get(&self.address, &format!("/api/v1/query?query={encoded}")).await.unwrap();
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).unwrap();
        answer["data"]["result"].as_array().map_or(0, Vec::len)
    }

    /// Whether an alert fires.
    pub async fn fires(&self, alert: &str) -> bool {
        self.series(&format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}")).await > 0
    }
}
