//! The smoke run of the benchmarks: every event arrives, once and in order. `cargo dev bench --smoke` runs only this.

use blackhole_dev::process::{Process, Spec};
use blackhole_dev::workspace::{self, RunDir};

#[tokio::test]
async fn the_smoke_run_neither_loses_nor_repeats_events() {
    let run = RunDir::create("bench-smoke").unwrap();
    let log = run.path().join("bench.log");
    // It needs the services' programs in its directory; `cargo dev test` builds them first.
    let bench = Spec::new(env!("CARGO_BIN_EXE_blackhole-bench")).args(["run", "--smoke"]).log(&log);
    let status = Process::start(&bench).unwrap().exited().await.unwrap();
    let report = std::fs::read_to_string(&log).unwrap();
    println!("{report}");
    assert!(status.success(), "the smoke run failed ({status}); see its output above");
    // Each shape was measured, with events that had to arrive.
    let figures = std::fs::read(workspace::target_dir().unwrap().join("bench/results.json")).unwrap();
    let figures: serde_json::Value = serde_json::from_slice(&figures).unwrap();
    for shape in ["fan-out, ", "sharded, ", "mixed, ", "storm, ", "reconnect, "] {
        let rows = figures["rows"].as_array().unwrap().iter();
        let mut rows = rows.filter(|row| row["shape"].as_str().unwrap().starts_with(shape)).peekable();
        assert!(rows.peek().is_some(), "no row for `{shape}`");
        for row in rows {
            assert!(row["expected"].as_u64().unwrap() > 0 && row["delivered"] == row["expected"], "{row}");
        }
    }
    run.remove().unwrap();
}
