//! The NATS server, the stream, and the clocks.

use std::sync::Arc;

use async_nats::{Client, Event};
use blackhole_common::{nats, report::Report, wire::Subjects};
use parking_lot::Mutex;
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, timeout};

use super::{CLIENT_NAME, TIMEOUT, services};
use crate::config::IngestConfig;

/// A larger difference shifts what `since` with a time means, and when tokens expire.
const MAX_CLOCK_DIFFERENCE_SECONDS: f64 = 1.0;

/// JetStream's answer about a stream, as far as needed.
#[derive(Debug, Deserialize)]
struct Answer {
    error: Option<Failure>,
    /// When the server answered.
    ts: Option<String>,
    config: Option<Config>,
    state: Option<State>,
    cluster: Option<Cluster>,
}

#[derive(Debug, Deserialize)]
struct Failure {
    description: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    max_bytes: i64,
    num_replicas: usize,
}

#[derive(Debug, Deserialize)]
struct State {
    messages: u64,
    bytes: u64,
    last_seq: u64,
    consumer_count: usize,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    leader: Option<String>,
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
struct Replica {
    name: String,
    current: bool,
}

pub(super) async fn examine(report: &mut Report, config: &IngestConfig, subjects: &Subjects) {
    let what = format!("nats {}", config.nats.url);
    let refused = Arc::new(Mutex::new(Vec::new()));
    let client = match connect(config, Arc::clone(&refused)).await {
        Ok(client) => client,
        Err(reason) => return report.add(what, Err(reason)),
    };
    let server = client.server_info();
    report.add(what, Ok(format!("nats-server {}, {}", server.version, server.server_name)));
    if config.history.is_off() {
        report.add("history", Ok("is off, as configured".to_owned()));
    } else {
        stream(report, config, &client, &subjects.stream()).await;
    }
    services::examine(report, &client, subjects).await;
    let refused = refused.lock();
    let result =
        if refused.is_empty() { Ok("nothing was refused".to_owned()) } else { Err(refused.join("; ")) };
    report.add("nats permissions", result);
}

async fn connect(config: &IngestConfig, refused: Arc<Mutex<Vec<String>>>) -> Result<Client, String> {
    let options = nats::options(&config.nats, CLIENT_NAME).await.map_err(|error| error.to_string())?;
    let options = options.event_callback(move |event| {
        if let Event::ServerError(error) = event {
            refused.lock().push(error.to_string());
        }
        std::future::ready(())
    });
    let connecting = timeout(TIMEOUT, options.connect(nats::servers(&config.nats)));
    match connecting.await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

async fn stream(report: &mut Report, config: &IngestConfig, client: &Client, stream: &str) {
    let began = (Instant::now(), OffsetDateTime::now_utc());
    let asked = client.request(format!("$JS.API.STREAM.INFO.{stream}"), "".into());
    let message = match timeout(TIMEOUT, asked).await {
        Ok(Ok(message)) => message,
        Ok(Err(error)) => return report.add("stream", Err(format!("JetStream does not answer: {error}"))),
        Err(_) => return report.add("stream", Err("JetStream does not answer".to_owned())),
    };
    let took = began.0.elapsed();
    let answer: Answer = match serde_json::from_slice(&message.payload) {
        Ok(answer) => answer,
        Err(error) => return report.add("stream", Err(format!("an answer that cannot be read: {error}"))),
    };
    let time = answer.ts.as_deref().and_then(|time| OffsetDateTime::parse(time, &Rfc3339).ok());
    report.add("clock", clock(time.map(|time| (time - began.1 - took / 2).as_seconds_f64())));
    if let Some(Failure { description }) = answer.error {
        return report.add(stream, Err(format!("{description}: an ingest creates it when it has connected")));
    }
    let (Some(settings), Some(state)) = (answer.config, answer.state) else {
        return report.add(stream, Err("its settings are missing in the answer".to_owned()));
    };
    let limit = u64::try_from(settings.max_bytes).unwrap_or(u64::MAX);
    let share = state.bytes as f64 * 100.0 / limit as f64;
    let text = format!(
        "{} events up to position {}, {share:.0} % of history.max_bytes, {} consumers; answered in {took:.1?}",
        state.messages, state.last_seq, state.consumer_count
    );
    report.add(stream, Ok(text));
    if settings.num_replicas < config.history.replicas {
        let text =
            format!("{} instead of history.replicas = {}", settings.num_replicas, config.history.replicas);
        report.add(format!("{stream} replicas"), Err(text));
    } else if let Some(cluster) = answer.cluster.filter(|_| settings.num_replicas > 1) {
        report.add(format!("{stream} replicas"), replicas(cluster));
    }
}

/// `difference` is what the server's clock is ahead, in seconds; `None` if it does not tell.
fn clock(difference: Option<f64>) -> Result<String, String> {
    let Some(difference) = difference else {
        return Ok("not compared: nats-server tells its time from 2.10 on".to_owned());
    };
    let text = format!("the NATS server's differs from this machine's by {difference:.3} s");
    if difference.abs() <= MAX_CLOCK_DIFFERENCE_SECONDS { Ok(text) } else { Err(text) }
}

fn replicas(cluster: Cluster) -> Result<String, String> {
    let lagging: Vec<_> = cluster
        .replicas
        .iter()
        .filter(|replica| !replica.current)
        .map(|replica| replica.name.as_str())
        .collect();
    match (cluster.leader, lagging.as_slice()) {
        (None, _) => Err("there is no leader: nothing can be stored".to_owned()),
        (Some(leader), []) => Ok(format!("{leader} leads, {} follow", cluster.replicas.len())),
        (Some(leader), lagging) => Err(format!("{leader} leads, but not current: {}", lagging.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_a_second() {
        assert!([None, Some(-0.9), Some(0.9)].into_iter().all(|difference| clock(difference).is_ok()));
        assert!([Some(-1.1), Some(1.1)].into_iter().all(|difference| clock(difference).is_err()));
    }

    #[test]
    fn a_stream_needs_a_leader_and_current_replicas() {
        let of = |text: &str| replicas(serde_json::from_str(text).unwrap());
        let current =
            of(r#"{"leader":"a","replicas":[{"name":"b","current":true},{"name":"c","current":true}]}"#);
        assert_eq!(current.unwrap(), "a leads, 2 follow");
        let lagging =
            of(r#"{"leader":"a","replicas":[{"name":"b","current":true},{"name":"c","current":false}]}"#);
        assert_eq!(lagging.unwrap_err(), "a leads, but not current: c");
        assert!(of(r#"{"replicas":[]}"#).is_err());
    }
}
