//! A fake edge that follows the contract on NATS, or violates it.

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

/// How the edge answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// Answers completely.
    Complete,
    /// Omits the last part of a listing, and fails to switch families.
    Incomplete,
    /// Sends heartbeats but never answers.
    Silent,
}

/// The edge. Dropping it ends it without a farewell.
pub(super) struct Edge {
    name: String,
    client: Client,
    switched: Arc<Mutex<Vec<FamilyRequest>>>,
    /// The task that answers requests and sends heartbeats.
    _task: AbortOnDropHandle<()>,
    leaving: CancellationToken,
}

fn subjects() -> Subjects {
    Subjects::new("blackhole.v1")
}

impl Edge {
    /// Starts an edge with these sessions, two of which it sends in each part of its answer.
    pub(super) async fn start(
        client: &Client,
        name: &str,
        behaviour: Behaviour,
        sessions: Vec<SessionInfo>,
    ) -> Edge {
        let mut listings = client.subscribe(subjects().sessions()).await.unwrap();
        let mut families = client.subscribe(subjects().families()).await.unwrap();
        // NATS processes the messages of a connection in order: after the heartbeat, the subscriptions are active.
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
                        Some(request) = listings.next() => list(&client, &name, behaviour, &sessions, &request).await,
                        Some(request) = families.next() => {
                            let asked: FamilyRequest = serde_json::from_slice(&request.payload).unwrap();
                            switched.lock().push(asked);
                            let error = (behaviour == Behaviour::Incomplete).then(|| "out of order".to_owned());
                            if behaviour != Behaviour::Silent {
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

    /// The requests to start and stop families since the last call.
    pub(super) fn switched(&self) -> Vec<(String, bool)> {
        let switched = std::mem::take(&mut *self.switched.lock());
        switched.into_iter().map(|FamilyRequest { family, running }| (family, running)).collect()
    }

    /// Announces that it leaves, and ends.
    pub(super) async fn leave(self) {
        let mut beats = self.client.subscribe(subjects().edges()).await.unwrap();
        self.leaving.cancel();
        until_heard(&mut beats, &self.name, true).await;
    }
}

async fn until_heard(beats: &mut Subscriber, name: &str, leaving: bool) {
    let expected = serde_json::to_vec(&heartbeat(name, leaving)).unwrap();
    soon("the edge's own beat", async { while beats.next().await.unwrap().payload != expected {} }).await;
}

async fn beat(client: &Client, name: &str, leaving: bool) {
    let beat = serde_json::to_vec(&heartbeat(name, leaving)).unwrap();
    client.publish(subjects().edges(), beat.into()).await.unwrap();
}

fn heartbeat(name: &str, leaving: bool) -> EdgeHeartbeat {
    EdgeHeartbeat { edge: name.to_owned(), leaving, sessions: None }
}

async fn answer(client: &Client, request: &Message, answer: &impl Serialize) {
    let json = serde_json::to_vec(answer).unwrap();
    client.publish(request.reply.clone().unwrap(), json.into()).await.unwrap();
}

async fn list(
    client: &Client,
    edge: &str,
    behaviour: Behaviour,
    sessions: &[SessionInfo],
    request: &Message,
) {
    if behaviour == Behaviour::Silent {
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
    if behaviour == Behaviour::Complete {
        let last = SessionsReply::<SessionInfo> { edge: edge.to_owned(), last: true, sessions: Vec::new() };
        answer(client, request, &last).await;
    }
}

/// A session of an account.
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
