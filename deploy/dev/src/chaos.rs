//! `cargo dev chaos`: the chaos tests, longer or larger than `cargo dev test` runs them.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::test;

/// The options of `cargo dev chaos`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long to inject faults (such as "10m"); with --standstill, how long the client does not read
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// Repeat the faults of an earlier run: the seed that it printed
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Run a cluster of three NATS servers instead of one server
    #[arg(long)]
    pub cluster: bool,
    /// Let hostile clients flood the edges and resume from the beginning meanwhile
    #[arg(long)]
    pub hostile: bool,
    /// Instead: kill the edge of this many sessions, which resume on another edge
    #[arg(long, value_name = "SESSIONS", conflicts_with_all = ["cluster", "seed", "standstill"])]
    pub storm: Option<u64>,
    /// Instead: send 100 MB to a client that has stopped reading
    #[arg(long, conflicts_with_all = ["cluster", "seed"])]
    pub standstill: bool,
    /// Instead: flood an edge from twice as many connections as there are processors
    #[arg(long, conflicts_with_all = ["cluster", "seed", "storm", "standstill"])]
    pub flood: bool,
    /// Instead: let many sessions of one account resume from the beginning of the stream, again and again
    #[arg(long, conflicts_with_all = ["cluster", "seed", "storm", "standstill", "flood"])]
    pub starve: bool,
    /// Instead: let clients ask for the state this often, while calls begin and end and processes die
    #[arg(long, value_name = "JOINS", conflicts_with_all = ["cluster", "storm", "standstill", "flood", "starve"])]
    pub state: Option<u64>,
}

/// Runs it. The exit code is that of the test.
pub async fn run(options: Options) -> Result<ExitCode> {
    let Options { time, seed, cluster, hostile, storm, standstill, flood, starve, state } = options;
    let name = match (storm, standstill, cluster) {
        _ if state.is_some() => "chaos::who_joins_while_processes_die_believes_in_what_lives",
        _ if starve => "chaos::old_cursors_of_one_account_do_not_delay_others",
        _ if flood => "chaos::hostile_clients_delay_nobody",
        (Some(_), ..) => "chaos::a_storm_of_sessions_resumes_on_another_edge",
        (None, true, _) => "chaos::a_client_that_stops_reading_costs_no_memory_and_misses_no_event",
        (None, false, true) => "chaos::no_event_is_lost_when_nats_servers_of_a_cluster_die",
        (None, false, false) => "chaos::no_event_is_lost_when_processes_die",
    };
    let numbers = [
        ("CHAOS_SECONDS", Some(time.as_secs())),
        ("CHAOS_SEED", seed),
        ("CHAOS_SESSIONS", storm),
        ("CHAOS_JOINS", state),
        ("CHAOS_HOSTILE", hostile.then_some(1)),
    ];
    let env = numbers.into_iter().filter_map(|(name, number)| Some((name, number?.to_string())));
    let args = ["-p", "blackhole-tests", "--test", "it", "--", "--exact", name, "--nocapture"];
    test::run_with(args.map(str::to_owned).to_vec(), env.collect()).await
}
