//! Some runs of the simulator, for every commit. `cargo dev simulate` makes more.

use blackhole_simulator::simulate;

#[test]
fn every_client_gets_every_event_once_or_is_told() {
    let report = simulate(1, 1_000, |_, _| {}).unwrap();
    println!("{} runs: {}", report.runs, report.counts);
    if let Some(failure) = report.failure {
        panic!("seed {}: {}", failure.seed, failure.violation);
    }
    assert!(report.counts.recovered > 100 && report.counts.unrecovered > 10 && report.counts.behind > 10);
}
