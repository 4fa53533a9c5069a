//! Changes feeds.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{Shared, answers::Body, store::Database};

/// CouchDB's own default.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(60);
/// Changes sent at once.
const BATCH: usize = 100;

/// How the feeds that run now end.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    regularly: CancellationToken,
    cut: CancellationToken,
}

impl Ends {
    pub(crate) fn end(&mut self) {
        std::mem::take(&mut self.regularly).cancel();
    }

    pub(crate) fn cut(&mut self) {
        std::mem::take(&mut self.cut).cancel();
    }
}

struct Feed {
    shared: Arc<Shared>,
    database: String,
    instance: u64,
    since: u64,
    heartbeat: Duration,
    include_docs: bool,
    changed: watch::Receiver<u64>,
    regularly: CancellationToken,
    cut: CancellationToken,
    has_begun: bool,
    has_ended: bool,
}

/// The lines of the changes after `since`, and the number of the last one.
pub(crate) fn lines(
    database: &Database,
    since: u64,
    limit: usize,
    include_docs: bool,
    as_array: bool,
) -> (Vec<String>, u64) {
    let mut last = since;
    let lines = database.changes.range(since + 1..).take(limit).map(|(number, id)| {
        last = *number;
        let document = &database.documents[id];
        let mut line = json!({
            "seq": database.position(*number, as_array),
            "id": id,
            "changes": [{ "rev": document.revision }],
        });
        if document.is_deleted {
            line["deleted"] = json!(true);
        }
        if include_docs {
            line["doc"] = serde_json::from_str(&document.json(id)).unwrap();
            if document.is_deleted {
                line["doc"]["_deleted"] = json!(true);
            }
        }
        line.to_string()
    });
    let lines = lines.collect();
    (lines, last)
}

/// The body of a continuous feed.
pub(crate) async fn continuous(
    shared: &Arc<Shared>,
    database: &str,
    since: u64,
    heartbeat: Option<u64>,
    include_docs: bool,
) -> Body {
    let instance = shared.store.lock().databases[database].instance;
    let (begins_late, regularly, cut) = {
        let faults = shared.faults.lock();
        (faults.feeds_begin_late, faults.feeds.regularly.clone(), faults.feeds.cut.clone())
    };
    let mut feed = Feed {
        shared: Arc::clone(shared),
        database: database.to_owned(),
        instance,
        since,
        heartbeat: heartbeat.map_or(DEFAULT_HEARTBEAT, Duration::from_millis),
        include_docs,
        changed: shared.changed.subscribe(),
        regularly,
        cut,
        // CouchDB 3 sends a line break if it has nothing to send at first.
        has_begun: begins_late,
        has_ended: false,
    };
    let first = if begins_late { feed.next().await } else { None };
    shared.begun.fetch_add(1, Ordering::SeqCst);
    let rest = stream::unfold(feed, async |mut feed| {
        let text = feed.next().await?;
        Some((text, feed))
    });
    let frames = stream::iter(first).chain(rest).map(|text| {
        text.map(|text| Frame::data(Bytes::from(text))).ok_or_else(|| std::io::Error::other("cut"))
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}

impl Feed {
    /// The next text; an inner `None` if the connection is cut.
    async fn next(&mut self) -> Option<Option<String>> {
        loop {
            if self.has_ended {
                return None;
            }
            if self.cut.is_cancelled() {
                self.has_ended = true;
                return Some(None);
            }
            self.changed.borrow_and_update();
            {
                let as_array = self.shared.faults.lock().sequences_are_arrays;
                let store = self.shared.store.lock();
                let database = store.databases.get(&self.database);
                let database = database.filter(|database| database.instance == self.instance);
                if database.is_none() || self.regularly.is_cancelled() {
                    self.has_ended = true;
                    let last =
                        database.map_or(json!("0"), |database| database.position(self.since, as_array));
                    return Some(Some(format!("{}\n", json!({ "last_seq": last, "pending": 0 }))));
                }
                let (lines, last) = database
                    .map(|database| lines(database, self.since, BATCH, self.include_docs, as_array))
                    .unwrap_or_default();
                if !lines.is_empty() {
                    (self.since, self.has_begun) = (last, true);
                    return Some(Some(lines.join("\n") + "\n"));
                }
                if !std::mem::replace(&mut self.has_begun, true) {
                    return Some(Some("\n".into()));
                }
            }
            let (regularly, cut) = (self.regularly.clone(), self.cut.clone());
            let wait = async {
                tokio::select! {
                    _ = self.changed.changed() => {}
                    () = regularly.cancelled() => {}
                    () = cut.cancelled() => {}
                }
            };
            if timeout(self.heartbeat, wait).await.is_err() {
                return Some(Some("\n".into()));
            }
        }
    }
}

/// Never fails: for bodies that are complete.
pub(crate) fn infallible(error: Infallible) -> std::io::Error {
    match error {}
}
