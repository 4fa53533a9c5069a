//! `amqp-ingest doctor`, where much is wrong. Where all is right, the permissions of `deploy/nats` are tested with it.

use std::process::{Command, Output};

use blackhole_dev::{ports, workspace::RunDir};
use blackhole_tests::stack;

use crate::topology::Brokers;

/// Runs it. Returns whether all is right, and what it prints.
pub(crate) fn doctor(env: &[(&str, String)], arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(stack::binaries().amqp_ingest);
    command.arg("doctor").args(arguments);
    command.envs(env.iter().map(|(name, value)| (format!("BLACKHOLE_{name}"), value)));
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.success(), String::from_utf8([stdout, stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_what_is_missing() {
    let brokers = Brokers::start("doctor").await;
    let env = [("AMQP__URL", brokers.rabbitmq.url()), ("NATS__URL", brokers.nats.url())];
    let dir = RunDir::create("doctor-token").unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "a token\n").unwrap();
    let edge = format!("ws://127.0.0.1:{}", ports::free().unwrap());
    let arguments =
        ["--edge", &edge, "--token-file", &token.display().to_string(), "--account", "4b31dd1d32ce6d24"];
    let (is_right, text) = doctor(&env, &arguments);
    assert!(!is_right, "{text}");
    for expected in [
        "queue: blackhole-ingest cannot be looked at (",
        "exchanges: 10 of 10 are missing: callevt, ",
        "BLACKHOLE_V1: stream not found: an ingest creates it",
        "blackhole-ingest: none runs: no event enters",
        "blackhole-auth: none runs: nobody is let in",
        "blackhole-edge: none runs: there is nothing to connect to",
        &format!("edge {edge}: Connection refused"),
    ] {
        assert!(
            text.lines().any(|line| line.starts_with("FAILED") && line.contains(expected)),
            "{expected}\n{text}"
        );
    }
    for expected in ["clock: ", "nats permissions: nothing was refused"] {
        assert!(
            text.lines().any(|line| line.starts_with("ok") && line.contains(expected)),
            "{expected}\n{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_which_server_does_not_answer() {
    let nowhere = |scheme: &str| format!("{scheme}://127.0.0.1:{}", ports::free().unwrap());
    let (amqp, nats) = (nowhere("amqp"), nowhere("nats"));
    let (is_right, text) = doctor(&[("AMQP__URL", amqp.clone()), ("NATS__URL", nats.clone())], &[]);
    assert!(!is_right, "{text}");
    for expected in [format!("FAILED  {amqp}: "), format!("FAILED  nats {nats}: ")] {
        assert!(text.contains(&expected), "{expected}\n{text}");
    }
}
