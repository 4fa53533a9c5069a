//! Chaos tests. `cargo dev chaos` runs them longer.

use std::{env, time::Duration};

use blackhole_tests::chaos::{self, Settings, flood, joins, standstill, starve, storm};

/// An option of `cargo dev chaos`.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn settings(seconds: u64, cluster: bool) -> Settings {
    Settings {
        time: Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(seconds)),
        seed: number("CHAOS_SEED").unwrap_or_else(rand::random),
        cluster,
        hostile: number("CHAOS_HOSTILE") == Some(1),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_when_processes_die() {
    chaos::run(settings(60, false)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_event_is_lost_when_nats_servers_of_a_cluster_die() {
    chaos::run(settings(40, true)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sessions_resumes_on_another_edge() {
    let sessions = number("CHAOS_SESSIONS").unwrap_or(5000);
    chaos::show(storm::run(usize::try_from(sessions).unwrap()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_joins_while_processes_die_believes_in_what_lives() {
    let seed = number("CHAOS_SEED").unwrap_or_else(rand::random);
    chaos::show(joins::run(number("CHAOS_JOINS").unwrap_or(500), seed).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_clients_delay_nobody() {
    chaos::show(flood::run(Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(5))).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_cursors_of_one_account_do_not_delay_others() {
    chaos::show(starve::run(Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(3))).await);
}

#[tokio::test]
async fn a_client_that_stops_reading_costs_no_memory_and_misses_no_event() {
    let pause = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(0));
    standstill::run(100_000_000, pause).await;
}
