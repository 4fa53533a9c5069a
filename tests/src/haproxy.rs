//! A real HAProxy with the project's configuration and a certificate created for the test.

use std::time::Duration;

use blackhole_dev::{
    install, ports,
    process::Spec,
    server::{Ready, Server},
    workspace::{self, RunDir},
};

use crate::stack::Edge;

const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// HAProxy in front of edges.
pub struct HaProxy {
    _server: Server,
    _dir: RunDir,
    /// The port for `wss://`.
    pub wss: u16,
    /// The port for `ws://`.
    pub ws: u16,
}

impl HaProxy {
    /// Starts it and waits until its health checks find the edges up. `settings` are further variables of its
    /// configuration.
    pub async fn start(edges: [&Edge; 2], settings: &[(&str, &str)]) -> HaProxy {
        let mut own: Vec<(&str, String)> =
            settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        for (edge, [address, check]) in
            edges.iter().zip([["BH_EDGE1", "BH_EDGE1_CHECK"], ["BH_EDGE2", "BH_EDGE2_CHECK"]])
        {
            own.push((address, format!("127.0.0.1:{}", edge.port)));
            own.push((check, edge.service.admin().rsplit_once(':').unwrap().1.to_owned()));
        }
        HaProxy::start_with(&own).await
    }

    /// Starts it with these variables of its configuration, which name the edges.
    pub async fn start_with(settings: &[(&str, String)]) -> HaProxy {
        let dir = RunDir::create("haproxy").unwrap();
        let (wss, ws, stats) = (ports::free().unwrap(), ports::free().unwrap(), ports::free().unwrap());
        let certificate =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let pem = certificate.cert.pem() + &certificate.signing_key.serialize_pem();
        std::fs::write(dir.path().join("cert_key.pem"), pem).unwrap();
        let config = workspace::root().unwrap().join("deploy/haproxy/haproxy.cfg");
        let mut spec = Spec::new(install::find(install::HAPROXY).unwrap())
            .arg("-db")
            .arg("-f")
            .arg(config)
            .env("BH_CERT", dir.path().join("cert_key.pem"))
            .env("BH_WSS_LISTEN", format!("127.0.0.1:{wss}"))
            .env("BH_WS_LISTEN", format!("127.0.0.1:{ws}"))
            .env("BH_STATS_LISTEN", format!("127.0.0.1:{stats}"))
            .env("BH_CHECK_INTERVAL", "100ms")
            .env("BH_MAXCONN", "500")
            // Only root can switch the user, and a test may not run as root.
            .env("BH_USER", "")
            .log(dir.path().join("haproxy.log"));
        spec = settings.iter().fold(spec, |spec, (name, value)| spec.env(name, value));
        let ready = Ready::Http(format!("127.0.0.1:{stats}"), "/health".into());
        let server = Server::start("haproxy", spec, ready, READY_TIMEOUT).await.unwrap();
        HaProxy { _server: server, _dir: dir, wss, ws }
    }
}
