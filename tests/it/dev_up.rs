//! `cargo dev up`: its output, and that it leaves no process behind however it ends.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Stdio,
    time::Duration,
};

use blackhole_dev::{
    brokers::{Nats, RabbitMq},
    http, ports,
    process::Signal,
    simulator::sample,
    workspace,
};
use blackhole_tests::{client::Client, eventually, soon, stack};
use futures_util::TryStreamExt;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
};

/// Time for cargo to check the build, and for two brokers and three services to start.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// `cargo dev up` with this WebSocket port, and a variable that marks the processes of the run.
fn up(port: u16, arguments: &[&str]) -> Command {
    let mut command = Command::new(stack::program_directory().join("blackhole-dev"));
    command.args(["up", "--port", &port.to_string()]).args(arguments);
    let (name, value) = mark(port);
    command.env(name, value).current_dir(workspace::root().unwrap());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// An environment variable, which all child processes inherit.
fn mark(port: u16) -> (&'static str, String) {
    ("TESTED_UP", format!("{}-of-{}", port, std::process::id()))
}

/// The command lines of the processes of a run.
fn processes(port: u16) -> Vec<String> {
    let (name, value) = mark(port);
    let mark = format!("{name}={value}");
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    processes
        .filter(|process| read(process.join("environ")).split('\0').any(|variable| variable == mark))
        .map(|process| read(process.join("cmdline")).replace('\0', " "))
        .collect()
}

async fn no_process_is_left(port: u16) {
    eventually("the end of all processes", || async { processes(port).is_empty() }).await;
    assert!(ports::is_free(port), "port {port} is still taken");
}

/// The lines up to the first one that contains this word.
async fn lines_until(word: &str, output: &mut (impl AsyncBufReadExt + Unpin)) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let read = async {
        while lines.last().is_none_or(|line| !line.contains(word)) {
            let mut line = String::new();
            let length = output.read_line(&mut line).await.unwrap();
            assert!(length > 0, "the output ended without {word}: {lines:#?}");
            lines.push(line.trim_end().to_owned());
        }
    };
    assert!(tokio::time::timeout(START_TIMEOUT, read).await.is_ok(), "no {word}: {lines:#?}");
    lines
}

async fn rest_of(output: impl AsyncRead + Unpin) -> Vec<String> {
    let mut lines = BufReader::new(output).lines();
    let mut rest = Vec::new();
    while let Some(line) = soon("the end of the output", lines.next_line()).await.unwrap() {
        rest.push(line);
    }
    rest
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().unwrap().cast_signed();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

#[tokio::test]
async fn it_prints_events_and_stops_after_the_given_time() {
    let port = ports::free().unwrap();
    let mut child = up(port, &["--for", "5s", "--calls-per-second", "4"]).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let head = lines_until("token    ", &mut output).await.join("\n");

    // The console is at the printed URL, and the token is valid.
    let (_, token) = head.rsplit_once(' ').unwrap();
    assert!(head.contains(&format!("http://127.0.0.1:{port}/#token={token}&account=*\n")), "{head}");
    let console = http::get(&format!("127.0.0.1:{port}"), "/").await.unwrap();
    assert!(console.status == 200 && console.body.contains("<title>Blackhole console</title>"));
    let mut client = Client::connect(&format!("ws://127.0.0.1:{port}")).await;
    let reply = client.request(json!({ "action": "ping", "auth_token": token })).await;
    assert_eq!(reply["status"], "success", "{reply}");

    // One line for each event, and their number at the end.
    let mut events = rest_of(output).await;
    let count = events.pop().unwrap();
    assert_eq!(count, format!("{} events received", events.len()));
    let accounts: Vec<String> = sample().unwrap().into_iter().map(|account| account.name).collect();
    for event in &events {
        let words: Vec<&str> = event.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect();
        let &[time, account, _name, id] = &words[..] else { panic!("{event}") };
        assert!(time.len() == 9 && time.ends_with('Z'), "{event}");
        assert!(accounts.iter().any(|name| name == account) || account == "-", "{event}");
        assert!(!id.is_empty() && id != "-", "{event}");
    }
    for name in ["CHANNEL_CREATE", "CHANNEL_ANSWER"] {
        assert!(events.iter().any(|event| event.contains(name)), "no {name}: {events:#?}");
    }
    assert!(soon("its end", child.wait()).await.unwrap().success());
    no_process_is_left(port).await;
}

#[tokio::test]
async fn it_uses_external_brokers_and_leaves_them_running_and_clean() {
    // Not those of the shared stack, whose services would also process the events.
    let dir = workspace::RunDir::create("given").unwrap();
    let (rabbitmq_dir, nats_dir) = (dir.subdir("rabbitmq").unwrap(), dir.subdir("nats").unwrap());
    let (rabbitmq, nats) = tokio::join!(RabbitMq::start(&rabbitmq_dir), Nats::start(&nats_dir));
    let (rabbitmq, nats) = (rabbitmq.unwrap(), nats.unwrap());
    let port = ports::free().unwrap();
    let given = ["--amqp", &rabbitmq.url(), "--nats", &nats.url(), "--for", "3s", "--calls-per-second", "4"];
    let output = tokio::time::timeout(START_TIMEOUT, up(port, &given).output()).await.unwrap().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("CHANNEL_CREATE"));
    no_process_is_left(port).await;
    assert!(rabbitmq.server().is_ready().await && nats.server().is_ready().await);
    assert_eq!(rabbitmq.queues().await.unwrap(), [], "the created queues are removed");
    let jetstream = async_nats::jetstream::new(async_nats::connect(nats.url()).await.unwrap());
    let streams: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    assert_eq!(streams, [""; 0], "the created streams are removed");
}

#[tokio::test]
async fn an_unreachable_broker_is_reported_in_one_line_and_nothing_starts() {
    let port = ports::free().unwrap();
    let nobody = format!("127.0.0.1:{}", ports::free().unwrap());
    let (nats, amqp) = (format!("nats://{nobody}"), format!("amqp://guest:guest@{nobody}/%2f"));
    for (arguments, expected) in [
        (["--nats", &nats], format!("error: cannot use the NATS server at nats://{nobody}")),
        (["--amqp", &amqp], format!("error: cannot use the AMQP broker at amqp://{nobody}/%2f")),
    ] {
        let output = soon("the error", up(port, &arguments).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(1), "{expected}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.lines().count() == 1 && said.starts_with(&expected), "{said}");
        no_process_is_left(port).await;
    }
}

#[tokio::test]
async fn a_requested_port_that_is_taken_is_an_error() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let output = soon("the error", up(port, &["--for", "5s"]).output()).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("error: port {port} is taken\n"));
    assert_eq!(processes(port), [""; 0]);
}

#[tokio::test]
async fn ctrl_c_during_the_start_leaves_no_process_behind() {
    let port = ports::free().unwrap();
    let mut child = up(port, &[]).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    lines_until("starting RabbitMQ ...", &mut said).await;
    eventually("RabbitMQ's first process", || async {
        processes(port).iter().any(|process| process.contains("rabbitmq"))
    })
    .await;
    signal(&child, Signal::SIGINT);
    assert_eq!(soon("its end", child.wait()).await.unwrap().code(), Some(130));
    no_process_is_left(port).await;
}

#[tokio::test]
async fn ctrl_c_a_closed_terminal_and_sigkill_leave_no_process_behind() {
    for (number, code) in [(Signal::SIGINT, Some(0)), (Signal::SIGHUP, Some(129)), (Signal::SIGKILL, None)] {
        let port = ports::free().unwrap();
        let mut child = up(port, &["--calls-per-second", "5"]).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        lines_until("CHANNEL_CREATE", &mut output).await;
        for program in ["nats-server", "rabbitmq", "amqp-ingest", "auth-svc", "ws-edge"] {
            let running = processes(port);
            assert!(running.iter().any(|process| process.contains(program)), "no {program} in {running:#?}");
        }
        signal(&child, number);
        if number == Signal::SIGHUP {
            // A closed terminal accepts no more output.
            drop(output);
        }
        assert_eq!(soon("its end", child.wait()).await.unwrap().code(), code, "{number}");
        no_process_is_left(port).await;
    }
}
