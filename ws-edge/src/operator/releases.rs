//! Which releases run: every service answers `$SRV.PING`, and the console shows what was answered last.

use std::{collections::BTreeMap, time::Duration};

use async_nats::Client;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

/// All NATS micro services answer it.
const PING: &str = "$SRV.PING";
/// The beginning of the names of Blackhole's services; others may be on the same NATS.
const PREFIX: &str = "blackhole-";
const INTERVAL: Duration = Duration::from_secs(10);
/// Answers that come later are not counted.
const WAIT: Duration = Duration::from_secs(1);
/// Maximum number of answers read.
const MAX_ANSWERS: usize = 1000;
/// Maximum number of different releases shown.
const MAX_RELEASES: usize = 50;

/// A service's answer, as far as needed.
#[derive(Deserialize)]
struct Answer {
    name: String,
    version: String,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// A release of a service, of which some processes run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Release {
    /// The NATS micro service, such as `blackhole-edge`.
    service: String,
    version: String,
    commit: String,
}

/// The releases that run.
#[derive(Debug, Default)]
pub(crate) struct Releases(Mutex<BTreeMap<Release, usize>>);

impl Releases {
    /// Each release with the number of its processes.
    pub(crate) fn list(&self) -> Vec<(Release, usize)> {
        self.0.lock().iter().map(|(release, count)| (release.clone(), *count)).collect()
    }

    /// Asks all services again and again, until `shutdown`.
    pub(crate) async fn follow(&self, client: Client, shutdown: CancellationToken) {
        let run = async {
            let mut ticks = interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                // Without NATS the list stays as it was.
                if let Ok(answers) = ask(&client).await {
                    *self.0.lock() = count(answers);
                }
            }
        };
        shutdown.run_until_cancelled(run).await;
    }
}

async fn ask(client: &Client) -> Result<Vec<Answer>, async_nats::Error> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await?;
    client.publish_with_reply(PING, inbox, "".into()).await?;
    let mut answers = Vec::new();
    let collect = async {
        while let Some(reply) = replies.next().await {
            answers.extend(serde_json::from_slice::<Answer>(&reply.payload));
            if answers.len() >= MAX_ANSWERS {
                return;
            }
        }
    };
    let _ = timeout(WAIT, collect).await;
    Ok(answers)
}

fn count(answers: Vec<Answer>) -> BTreeMap<Release, usize> {
    let mut releases = BTreeMap::new();
    for Answer { name, version, mut metadata } in answers {
        if !name.starts_with(PREFIX) {
            continue;
        }
        let commit = metadata.remove("commit").unwrap_or_default();
        let release = Release { service: name, version, commit };
        if releases.len() < MAX_RELEASES || releases.contains_key(&release) {
            *releases.entry(release).or_default() += 1;
        }
    }
    releases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_counted_by_release_and_other_services_are_not() {
        let answer = |name: &str, version: &str| -> Answer {
            serde_json::from_value(serde_json::json!({
                "type": "io.nats.micro.v1.ping_response", "name": name, "id": "x", "version": version,
                "metadata": { "commit": "c", "host": "h" },
            }))
            .unwrap()
        };
        let answers = vec![
            answer("blackhole-edge", "0.2.0"),
            answer("other", "1.0.0"),
            answer("blackhole-edge", "0.1.0"),
            answer("blackhole-edge", "0.2.0"),
            answer("blackhole-auth", "0.1.0"),
        ];
        let releases = Releases(Mutex::new(count(answers)));
        let listed = releases.list();
        let listed: Vec<_> = listed
            .iter()
            .map(|(release, count)| (release.service.as_str(), release.version.as_str(), *count))
            .collect();
        let expected =
            [("blackhole-auth", "0.1.0", 1), ("blackhole-edge", "0.1.0", 1), ("blackhole-edge", "0.2.0", 2)];
        assert_eq!(listed, expected);
    }

    #[test]
    fn an_answer_without_a_commit_is_of_an_earlier_release() {
        let answer: Answer = serde_json::from_str(r#"{"name":"blackhole-auth","version":"0.1.0"}"#).unwrap();
        assert_eq!(count(vec![answer]).keys().next().unwrap().commit, "");
    }

    #[test]
    fn a_flood_of_releases_is_cut_off() {
        let answers = (0..100).map(|number| Answer {
            name: format!("blackhole-{number}"),
            version: "1".into(),
            metadata: BTreeMap::new(),
        });
        assert_eq!(count(answers.collect()).len(), MAX_RELEASES);
    }
}
