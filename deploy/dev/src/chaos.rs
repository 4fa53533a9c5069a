//! `cargo dev chaos`: the chaos of the tests, for longer or larger than `cargo dev test` has the time for.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use crate::test;

/// The options of `cargo dev chaos`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long parts die (as "10m"), or how long the client of --standstill does not read
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// What decides which part dies, when and for how long: that of a run before, to see it again
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Three NATS servers instead of one
    #[arg(long)]
    pub cluster: bool,
    /// Instead: so many sessions lose their edge at once, and resume on another
    #[arg(long, value_name = "SESSIONS", conflicts_with_all = ["cluster", "seed", "standstill"])]
    pub storm: Option<u64>,
    /// Instead: a client stops reading while 100 MB are sent to it
    #[arg(long, conflicts_with_all = ["cluster", "seed"])]
    pub standstill: bool,
}

/// Runs it; the exit code is the verdict.
pub async fn run(options: Options) -> Result<ExitCode> {
    let Options { time, seed, cluster, storm, standstill } = options;
    let name = match (storm, standstill, cluster) {
        (Some(_), ..) => "chaos::a_storm_of_sessions_resumes_on_another_edge",
        (None, true, _) => "chaos::a_client_that_stops_reading_costs_no_memory_and_misses_nothing",
        (None, false, true) => "chaos::nothing_is_lost_while_servers_of_a_cluster_die",
        (None, false, false) => "chaos::nothing_is_lost_whatever_dies",
    };
    let numbers = [("CHAOS_SECONDS", Some(time.as_secs())), ("CHAOS_SEED", seed), ("CHAOS_SESSIONS", storm)];
    let env = numbers.into_iter().filter_map(|(name, number)| Some((name, number?.to_string())));
    let args = ["-p", "blackhole-tests", "--test", "it", "--", "--exact", name, "--nocapture"];
    test::run_with(args.map(str::to_owned).to_vec(), env.collect()).await
}
