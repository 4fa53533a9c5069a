//! Clients that join with the state while calls begin and end, and processes die: each must believe in exactly the calls
//! that live.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use blackhole_dev::simulator::Publisher;
use parking_lot::Mutex;
use tokio::{sync::oneshot, task::JoinSet};

use super::{deployment::Deployment, faults};
use crate::living::{self, Calls, Joined};

/// Clients that join at the same time.
const CLIENTS: usize = 24;
/// Accounts whose calls they watch.
const ACCOUNTS: usize = 4;
/// Calls that begin and end per second.
const CALLS_PER_SECOND: u32 = 30;
/// Calls that live at a time.
const LIVING: usize = 200;
/// One round of faults.
const ROUND: Duration = Duration::from_secs(30);

/// Injects faults until clients have joined this often. Returns what was seen.
///
/// # Panics
/// If a client believed in a ghost, or missed a call, or got an event twice.
pub async fn run(joins: u64, seed: u64) -> String {
    let deployment = Arc::new(Deployment::start(false).await);
    let calls = Calls::new(ACCOUNTS);
    let publisher = Publisher::connect(&deployment.rabbitmq.url()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let source = Arc::clone(&calls);
    let publishing = tokio::spawn(async move {
        source.run(&publisher, CALLS_PER_SECOND, LIVING, async { drop(stopped.await) }).await;
    });
    let (joined, failed): (Arc<Mutex<Vec<Joined>>>, _) = (Arc::default(), Arc::new(AtomicU64::new(0)));
    let wrong: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (calls, joined, wrong) = (Arc::clone(&calls), Arc::clone(&joined), Arc::clone(&wrong));
        let (failed, port) = (Arc::clone(&failed), deployment.edges[client % 2].port);
        let url = format!("ws://127.0.0.1:{port}/?view=args");
        clients.spawn(async move {
            while (joined.lock().len() as u64) < joins && wrong.lock().is_empty() {
                match living::join(&calls, client % ACCOUNTS, &url, false).await {
                    Ok(Some(one)) => joined.lock().push(one),
                    Ok(None) => {
                        failed.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => wrong.lock().push(error),
                }
            }
        });
    }
    let mut counts = Vec::new();
    for round in 0.. {
        counts.push(faults::run(&deployment, ROUND, seed.wrapping_add(round), false).await);
        if joined.lock().len() as u64 >= joins || !wrong.lock().is_empty() {
            break;
        }
    }
    while clients.join_next().await.is_some() {}
    let _ = stop.send(());
    publishing.await.unwrap();
    let wrong = std::mem::take(&mut *wrong.lock());
    assert!(wrong.is_empty(), "seed {seed}, in {}: {wrong:#?}", deployment.dir.path().display());
    let joined = std::mem::take(&mut *joined.lock());
    let of = |value: fn(&Joined) -> Duration| {
        let mut times: Vec<Duration> = joined.iter().map(value).collect();
        times.sort();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len() - 1)).copied();
        format!("{:?} (p50), {:?} (p99), {:?} (max)", at(50), at(99), times.last())
    };
    let kept = joined.iter().map(|one| one.kept).sum::<usize>() / joined.len();
    format!(
        "{} joins, each with about {kept} kept events; complete after {}; right after {}; {} connections failed; faults: {}",
        joined.len(),
        of(|one| one.complete),
        of(|one| one.correct),
        failed.load(Ordering::Relaxed),
        counts.join("; ")
    )
}
