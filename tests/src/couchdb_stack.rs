//! auth-svc with the stand-in for KAZOO's CouchDB, and an edge, on the brokers that all tests share.

use blackhole_couchdb::{CouchDb, kazoo};
use blackhole_dev::{ports, services::Service, workspace::RunDir};

use crate::stack::{self, Stack};

/// The services. They have subjects of their own.
#[derive(Debug)]
pub struct CouchDbStack {
    /// The stand-in, with KAZOO's documents.
    pub couchdb: CouchDb,
    /// The service that reads from it.
    pub auth_svc: Service,
    /// The edge's URL.
    pub url: String,
    name: String,
    prefix: String,
    _edge: Service,
    _dir: RunDir,
}

impl CouchDbStack {
    /// Starts them, with these further settings.
    pub async fn start(name: &str, more: &[(&str, &str)]) -> CouchDbStack {
        let dir = RunDir::create(name).unwrap();
        let couchdb = kazoo::start().await;
        let port = ports::free().unwrap();
        let prefix = format!("{name}.v1");
        let mut env = vec![
            ("NATS__URL", Stack::shared().nats.url()),
            ("NATS__PREFIX", prefix.clone()),
            ("AUTH__COUCHDB__URL", couchdb.url()),
            ("WS__LISTEN", format!("127.0.0.1:{port}")),
            ("LOG__FILTER", "debug,async_nats=info,hyper=info".to_owned()),
        ];
        env.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let binaries = stack::binaries();
        let auth_svc = Service::start("auth-svc", &binaries.auth_svc, dir.path(), &env).await.unwrap();
        let edge = Service::start("ws-edge", &binaries.ws_edge, dir.path(), &env).await.unwrap();
        let (url, name) = (format!("ws://127.0.0.1:{port}"), name.to_owned());
        CouchDbStack { couchdb, auth_svc, url, name, prefix, _edge: edge, _dir: dir }
    }

    /// An ingest for them. It consumes all events of the broker that all tests share.
    pub async fn ingest(&self) -> Service {
        let settings = [
            ("NATS__PREFIX", self.prefix.as_str()),
            ("AMQP__QUEUE", &self.name),
            ("AMQP__DEAD_LETTER_EXCHANGE", &format!("{}-dead", self.name)),
        ];
        Stack::shared().another_ingest(&self.name, &settings).await
    }
}
