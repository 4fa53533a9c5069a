//! A program that speaks the contract on NATS as an edge does, or keeps silent.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Message, Subscriber};
use blackhole_common::wire::{
    EdgeHeartbeat, FamilyReply, FamilyRequest, SessionInfo, SessionsReply, SessionsRequest, Subjects,
};
use blackhole_tests::soon;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// What the edge does when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    /// It answers.
    Answers,
    /// It answers a listing with all parts but the last, and cannot switch families.
    Falters,
    /// It beats and never answers.
    Silent,
}

/// The edge. It is gone without a farewell when it is dropped.
pub(super) struct Edge {
    name: String,
    client: Client,
    switched: Arc<Mutex<Vec<FamilyRequest>>>,
    /// The subscriptions' and the beat's task.
    _task: AbortOnDropHandle<()>,
    leaving: CancellationToken,
}

fn subjects() -> Subjects {
    Subjects::new("blackhole.v1")
}

impl Edge {
    /// One that holds these sessions, of which it sends two in each part of its answer.
    pub(super) async fn start(client: &Client, name: &str, mood: Mood, sessions: Vec<SessionInfo>) -> Edge {
        let mut listings = client.subscribe(subjects().sessions()).await.unwrap();
        let mut families = client.subscribe(subjects().families()).await.unwrap();
        // The server takes what one connection sends in order: with its own beat it has the subscriptions too.
        let mut beats = client.subscribe(subjects().edges()).await.unwrap();
        beat(client, name, false).await;
        until_heard(&mut beats, name, false).await;
        let switched = Arc::<Mutex<Vec<FamilyRequest>>>::default();
        let leaving = CancellationToken::new();
        let task = tokio::spawn({
            let (client, name) = (client.clone(), name.to_owned());
            let (switched, leaving) = (Arc::clone(&switched), leaving.clone());
            async move {
                let mut every = tokio::time::interval(Duration::from_secs(5));
                loop {
                    tokio::select! {
                        () = leaving.cancelled() => return beat(&client, &name, true).await,
                        _ = every.tick() => beat(&client, &name, false).await,
                        Some(request) = listings.next() => list(&client, &name, mood, &sessions, &request).await,
                        Some(request) = families.next() => {
                            let asked: FamilyRequest = serde_json::from_slice(&request.payload).unwrap();
                            switched.lock().push(asked);
                            let error = (mood == Mood::Falters).then(|| "out of order".to_owned());
                            if mood != Mood::Silent {
                                answer(&client, &request, &FamilyReply { edge: name.clone(), error }).await;
                            }
                        }
                    }
                }
            }
        });
        Edge {
            name: name.to_owned(),
            client: client.clone(),
            switched,
            _task: AbortOnDropHandle::new(task),
            leaving,
        }
    }

    /// What it was asked to start and stop since this was last asked.
    pub(super) fn switched(&self) -> Vec<(String, bool)> {
        let switched = std::mem::take(&mut *self.switched.lock());
        switched.into_iter().map(|FamilyRequest { family, running }| (family, running)).collect()
    }

    /// Says farewell.
    pub(super) async fn leave(self) {
        let mut beats = self.client.subscribe(subjects().edges()).await.unwrap();
        self.leaving.cancel();
        until_heard(&mut beats, &self.name, true).await;
    }
}

async fn until_heard(beats: &mut Subscriber, name: &str, leaving: bool) {
    let expected = serde_json::to_vec(&EdgeHeartbeat { edge: name.to_owned(), leaving }).unwrap();
    soon("the edge's own beat", async { while beats.next().await.unwrap().payload != expected {} }).await;
}

async fn beat(client: &Client, name: &str, leaving: bool) {
    let beat = EdgeHeartbeat { edge: name.to_owned(), leaving };
    client.publish(subjects().edges(), serde_json::to_vec(&beat).unwrap().into()).await.unwrap();
}

async fn answer(client: &Client, request: &Message, answer: &impl Serialize) {
    let json = serde_json::to_vec(answer).unwrap();
    client.publish(request.reply.clone().unwrap(), json.into()).await.unwrap();
}

async fn list(client: &Client, edge: &str, mood: Mood, sessions: &[SessionInfo], request: &Message) {
    if mood == Mood::Silent {
        return;
    }
    let SessionsRequest { account_id, session_id } = serde_json::from_slice(&request.payload).unwrap();
    let wanted: Vec<SessionInfo> = sessions
        .iter()
        .filter(|own| account_id.is_none() || own.account_id == account_id)
        .filter(|own| session_id.as_ref().is_none_or(|id| own.session_id == *id))
        .cloned()
        .collect();
    for part in wanted.chunks(2) {
        let part = SessionsReply { edge: edge.to_owned(), last: false, sessions: part.to_vec() };
        answer(client, request, &part).await;
    }
    if mood == Mood::Answers {
        let last = SessionsReply::<SessionInfo> { edge: edge.to_owned(), last: true, sessions: Vec::new() };
        answer(client, request, &last).await;
    }
}

/// A session with this id of that account, without a name; `since` is 1,795,473,603.
pub(super) fn session(id: &str, account_id: &str) -> SessionInfo {
    SessionInfo {
        session_id: id.to_owned(),
        account_id: Some(account_id.to_owned()),
        bindings: vec!["call.*.*".into(), format!("fax.status.{id}")],
        since: 1_795_473_603,
        name: None,
        metadata: None,
        source: "192.0.2.7".into(),
        destination: "edge1.example.com".into(),
    }
}
