//! Some runs of the simulator. `.ci/run` makes more with `SIMULATED_RUNS`, and `cargo dev simulate` as many as one likes.

use blackhole_simulator::simulate;

#[test]
fn every_client_gets_every_event_once_or_is_told() {
    let runs = std::env::var("SIMULATED_RUNS").map_or(1_000, |runs| runs.parse().unwrap());
    let report = simulate(1, runs, |_, _| {}).unwrap();
    println!("{} runs: {}", report.runs, report.counts);
    if let Some(failure) = report.failure {
        panic!("seed {}: {}", failure.seed, failure.violation);
    }
    assert!(report.counts.recovered > 100 && report.counts.unrecovered > 10 && report.counts.behind > 10);
}
