//! `cargo dev up` as a newcomer uses it, and that it leaves nothing behind, however it ends.

use std::{path::PathBuf, process::Stdio};

use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    ports, workspace,
};
use blackhole_tests::{eventually, soon, stack};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

fn up(arguments: &[&str]) -> Command {
    let mut command = Command::new(stack::program_directory().join("blackhole-dev"));
    command.arg("up").args(arguments).current_dir(workspace::root().unwrap()).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The processes that have something to do with this run: its directory is in their arguments or environment.
fn left_of(pid: u32) -> Vec<String> {
    let mark = format!("up-{pid}-");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let texts = |process: &PathBuf| {
        ["cmdline", "environ"].map(|file| std::fs::read(process.join(file)).unwrap_or_default()).concat()
    };
    processes
        .filter(|process| {
            process
                .file_name()
                .is_some_and(|name| name.to_string_lossy().parse::<u32>().is_ok_and(|own| own != pid))
        })
        .filter(|process| String::from_utf8_lossy(&texts(process)).contains(&mark))
        .map(|process| process.display().to_string())
        .collect()
}

async fn nothing_is_left(pid: u32, port: u16) {
    eventually("the end of all processes", || async { left_of(pid).is_empty() }).await;
    assert!(ports::is_free(port), "port {port} is still taken");
}

/// Starts it and waits for its first event.
async fn running(port: u16) -> (Child, u32, Lines<BufReader<ChildStdout>>) {
    let mut child = up(&["--calls-per-second", "5", "--port", &port.to_string()]).spawn().unwrap();
    let pid = child.id().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It builds and starts two brokers first.
    for _ in 0..20 {
        let line = tokio::time::timeout(blackhole_tests::PATIENCE * 4, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        if line.contains("CHANNEL_CREATE") {
            break;
        }
    }
    assert!(left_of(pid).len() >= 5, "brokers and services run: {:?}", left_of(pid));
    (child, pid, lines)
}

#[tokio::test]
async fn it_shows_events_and_ends_by_itself() {
    let port = ports::free().unwrap().to_string();
    let output = up(&["--for", "5s", "--calls-per-second", "4", "--port", &port]).output();
    let output = tokio::time::timeout(blackhole_tests::PATIENCE * 6, output).await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("/#token=ey"), "the console's address: {text}");
    let event = text.lines().find(|line| line.contains("CHANNEL_CREATE")).unwrap_or_else(|| panic!("{text}"));
    assert!(event.split_whitespace().count() >= 4, "time, account, name, call id: {event}");
    assert!(text.lines().last().unwrap().contains("events"), "{text}");
}

#[tokio::test]
async fn it_uses_the_brokers_that_it_is_given_and_leaves_them_running() {
    // Not the shared stack's: its services would carry the events too.
    let dir = workspace::RunDir::create("given").unwrap();
    let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
    let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::start(&nats_dir));
    let (rabbitmq, nats) = (rabbitmq.unwrap(), nats.unwrap());
    let port = ports::free().unwrap().to_string();
    let arguments = [
        "--for",
        "3s",
        "--calls-per-second",
        "4",
        "--port",
        &port,
        "--amqp",
        &rabbitmq.url(),
        "--nats",
        &nats.url(),
    ];
    let output =
        tokio::time::timeout(blackhole_tests::PATIENCE * 6, up(&arguments).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(rabbitmq.server().is_ready().await && nats.server().is_ready().await);
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_that_leaves_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = soon("the error", up(&["--for", "5s", "--port", &port]).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains(&port), "{text}");
}

#[tokio::test]
async fn ctrl_c_a_closed_terminal_and_a_sudden_death_leave_nothing_behind() {
    use blackhole_dev::process::Signal;
    for signal in [Signal::SIGINT, Signal::SIGHUP, Signal::SIGKILL] {
        let port = ports::free().unwrap();
        let (mut child, pid, lines) = running(port).await;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), signal).unwrap();
        if signal == Signal::SIGHUP {
            // A terminal that is gone takes no more lines.
            drop(lines);
        }
        soon("its end", child.wait()).await.unwrap();
        nothing_is_left(pid, port).await;
    }
}
