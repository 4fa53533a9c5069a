//! Which services run, and how many sessions each edge has.

use std::{collections::BTreeMap, time::Duration};

use async_nats::{Client, service::PingResponse};
use blackhole_common::{
    report::Report,
    wire::{EdgeHeartbeat, Subjects},
};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// The services, by their names as NATS micro services, and what is missing without one.
const SERVICES: [(&str, &str); 3] = [
    ("blackhole-ingest", "no event enters"),
    ("blackhole-auth", "nobody is let in"),
    ("blackhole-edge", "there is nothing to connect to"),
];
/// Services answer within this time.
const ANSWER_TIME: Duration = Duration::from_secs(1);
/// Every edge sends a heartbeat within this time.
const HEARTBEAT_TIME: Duration = Duration::from_secs(6);

pub(super) async fn examine(report: &mut Report, client: &Client, subjects: &Subjects) {
    let inbox = client.new_inbox();
    let services = async {
        let replies = client.subscribe(inbox.clone()).await?;
        client.publish_with_reply("$SRV.PING", inbox, "".into()).await?;
        Ok::<_, async_nats::Error>(collect::<PingResponse>(replies, ANSWER_TIME).await)
    };
    let edges = async {
        let beats = client.subscribe(subjects.edges()).await?;
        Ok::<_, async_nats::Error>(collect::<EdgeHeartbeat>(beats, HEARTBEAT_TIME).await)
    };
    let (services, edges) = tokio::join!(services, edges);
    match services {
        Err(error) => report.add("services", Err(error.to_string())),
        Ok(answers) => {
            for (name, without) in SERVICES {
                report.add(name, releases(&answers, name).ok_or_else(|| format!("none runs: {without}")));
            }
        }
    }
    let edges = edges.map(|beats| {
        let sessions = beats.into_iter().filter(|beat| !beat.leaving).map(|beat| (beat.edge, beat.sessions));
        sessions.collect::<BTreeMap<_, _>>()
    });
    match edges {
        Err(error) => report.add("edges", Err(error.to_string())),
        Ok(edges) => {
            for (edge, sessions) in edges {
                let text = match sessions {
                    None => "of an earlier release".to_owned(),
                    Some(1) => "1 session".to_owned(),
                    Some(count) => format!("{count} sessions"),
                };
                report.add(format!("edge {edge}"), Ok(text));
            }
        }
    }
}

/// All that comes within this time.
async fn collect<M: DeserializeOwned>(mut messages: async_nats::Subscriber, time: Duration) -> Vec<M> {
    let mut all = Vec::new();
    let reading = async {
        while let Some(message) = messages.next().await {
            all.extend(serde_json::from_slice::<M>(&message.payload));
        }
    };
    let _ = timeout(time, reading).await;
    all
}

/// The releases of a service, and how many processes of each run; `None` if none does.
fn releases(answers: &[PingResponse], name: &str) -> Option<String> {
    let mut releases: BTreeMap<String, usize> = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.name == name) {
        let commit = answer.metadata.get("commit").map(String::as_str).unwrap_or_default();
        *releases.entry(format!("{} {commit}", answer.version)).or_default() += 1;
    }
    let all: Vec<_> =
        releases.iter().map(|(release, count)| format!("{count} of {}", release.trim())).collect();
    (!all.is_empty()).then(|| all.join(", "))
}
