//! The smallest HTTP server that keeps CouchDB's contract, as far as Blackhole relies on it. The tests in
//! `tests/contract.rs` say what that is; they run against this server and, with `BLACKHOLE_TEST_COUCHDB=URL`, against a real
//! CouchDB.
//!
//! | module | contents |
//! |---|---|
//! | this one | the server, and its faults |
//! | [`store`] | databases, documents, revisions, sequences |
//! | [`answers`], [`views`] | requests and their answers |
//! | [`users`] | who may do what |
//! | [`feed`] | changes feeds |
//! | [`kazoo`] | the documents of a KAZOO cluster, and tokens that go with them |
//! | [`web`] | an HTTP server whose answers a test decides |
//! | [`issuer`], [`crossbar`] | what auth-svc asks instead of CouchDB or besides it |

// All of this is test code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod answers;
pub mod crossbar;
pub mod feed;
pub mod issuer;
pub mod kazoo;
pub mod store;
pub mod users;
pub mod views;
pub mod web;

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// A running server. Clones are the same server.
#[derive(Clone, Debug)]
pub struct CouchDb {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What all connections share.
#[derive(Debug)]
pub struct Shared {
    pub(crate) store: Mutex<Store>,
    pub(crate) faults: Mutex<Faults>,
    /// Changes when a document does.
    pub(crate) changed: watch::Sender<u64>,
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) waiting: AtomicUsize,
    pub(crate) begun: AtomicUsize,
}

/// What is wrong with the server at the moment.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) user: Option<(String, String)>,
    pub(crate) forbidden: HashSet<String>,
    pub(crate) delay: Duration,
    pub(crate) sequences_are_arrays: bool,
    pub(crate) refuses_sequences: bool,
    /// Documents as another node has them, which does not know the latest changes.
    pub(crate) old: Option<Store>,
    pub(crate) is_down: bool,
    pub(crate) connections: CancellationToken,
    /// How feeds end.
    pub(crate) feeds: feed::Ends,
    /// The answer to who asks for a feed begins with its first line.
    pub(crate) feeds_begin_late: bool,
}

impl CouchDb {
    /// Starts a server without databases. It ends with the runtime.
    pub async fn start() -> CouchDb {
        CouchDb::listen("127.0.0.1:0").await.unwrap()
    }

    /// Starts a server at this address.
    ///
    /// # Errors
    /// If the address is not available.
    pub async fn listen(address: &str) -> std::io::Result<CouchDb> {
        let listener = TcpListener::bind(address).await?;
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            faults: Mutex::default(),
            changed: watch::Sender::new(0),
            asked: Mutex::default(),
            waiting: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
        });
        let couchdb = CouchDb { address: listener.local_addr()?, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                let ends = {
                    let faults = shared.faults.lock();
                    if faults.is_down {
                        continue;
                    }
                    faults.connections.clone()
                };
                tokio::spawn(async move {
                    let service = service_fn(|request| answers::answer(Arc::clone(&shared), request));
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = ends.run_until_cancelled(connection).await;
                });
            }
        });
        Ok(couchdb)
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Creates a database.
    pub fn create(&self, database: &str) {
        self.shared.store.lock().create(database);
    }

    /// Deletes a database.
    pub fn drop_database(&self, database: &str) {
        self.shared.store.lock().drop_database(database);
        self.tell();
    }

    /// Writes a document over its latest revision. Creates the database if there is none.
    pub fn put(&self, database: &str, document: &Value) {
        let id = document["_id"].as_str().unwrap().to_owned();
        self.shared.store.lock().overwrite(database, &id, document);
        self.tell();
    }

    /// Changes members of a document; `null` removes one.
    pub fn edit(&self, database: &str, id: &str, members: &Value) {
        let mut document = self.shared.store.lock().document(database, id).unwrap();
        for (name, value) in members.as_object().unwrap() {
            match value {
                Value::Null => drop(document.as_object_mut().unwrap().remove(name)),
                value => document[name] = value.clone(),
            }
        }
        self.put(database, &document);
    }

    /// Deletes a document.
    pub fn delete(&self, database: &str, id: &str) {
        self.shared.store.lock().delete(database, id, None).unwrap();
        self.tell();
    }

    /// Adds an attachment to a document.
    pub fn attach(&self, database: &str, id: &str, name: &str, content: &[u8]) {
        self.shared.store.lock().attach(database, id, name, content.to_vec(), None).unwrap();
        self.tell();
    }

    /// The revision of a document.
    pub fn revision(&self, database: &str, id: &str) -> String {
        self.shared.store.lock().document(database, id).unwrap()["_rev"].as_str().unwrap().to_owned()
    }

    /// Requires this user and password, or those of a user in the database `_users`.
    pub fn require_user(&self, user: &str, password: &str) {
        self.shared.faults.lock().user = Some((user.to_owned(), password.to_owned()));
    }

    /// Nobody may read this database.
    pub fn forbid(&self, database: &str) {
        self.shared.faults.lock().forbidden.insert(database.to_owned());
    }

    /// Answers come after this time; those of feeds begin at once.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.lock().delay = delay;
    }

    /// Sequences are JSON arrays, as in BigCouch.
    pub fn sequences_are_arrays(&self) {
        self.shared.faults.lock().sequences_are_arrays = true;
    }

    /// The answer to who asks for a feed begins with its first line, as in CouchDB 2 and BigCouch: with a change or a heartbeat.
    pub fn feeds_begin_late(&self) {
        self.shared.faults.lock().feeds_begin_late = true;
    }

    /// Another node has written a document at the same time, with this revision. The greater one of both wins.
    pub fn replicate(&self, database: &str, document: &Value) {
        self.shared.store.lock().replicate(database, document);
        self.tell();
    }

    /// Refuses every sequence with 400.
    pub fn refuse_sequences(&self, refuse: bool) {
        self.shared.faults.lock().refuses_sequences = refuse;
    }

    /// From now on documents are read as they are now, as if from a node that does not learn of changes. Feeds tell of them.
    pub fn freeze_documents(&self, freeze: bool) {
        let old = freeze.then(|| self.snapshot());
        self.answer_from(old);
    }

    /// All documents as they are now.
    pub fn snapshot(&self) -> Store {
        self.shared.store.lock().clone()
    }

    /// From now on documents are read from an older snapshot, if there is one.
    pub fn answer_from(&self, old: Option<Store>) {
        self.shared.faults.lock().old = old;
    }

    /// Closes all connections, and takes no further ones.
    pub fn stop(&self) {
        let mut faults = self.shared.faults.lock();
        faults.is_down = true;
        std::mem::take(&mut faults.connections).cancel();
    }

    /// Takes connections again.
    pub fn go_on(&self) {
        self.shared.faults.lock().is_down = false;
    }

    /// Ends all feeds regularly.
    pub fn end_feeds(&self) {
        self.shared.faults.lock().feeds.end();
    }

    /// Cuts the connections of all feeds.
    pub fn cut_feeds(&self) {
        self.shared.faults.lock().feeds.cut();
    }

    /// The number of answers that are on their way because of [`CouchDb::delay`].
    pub fn waiting(&self) -> usize {
        self.shared.waiting.load(Ordering::SeqCst)
    }

    /// The number of feeds whose answers have begun.
    pub fn feeds_begun(&self) -> usize {
        self.shared.begun.load(Ordering::SeqCst)
    }

    /// The paths and queries of the requests since the last call.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock())
    }

    /// The same without those for feeds.
    pub fn take_questions(&self) -> Vec<String> {
        self.take_requests().into_iter().filter(|path| !path.contains("/_changes")).collect()
    }

    fn tell(&self) {
        self.shared.changed.send_modify(|number| *number += 1);
    }
}

impl Shared {
    pub(crate) fn tell(&self) {
        self.changed.send_modify(|number| *number += 1);
    }
}
