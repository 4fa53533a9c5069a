//! `cargo dev up`: runs everything on this machine, from the brokers to a client that prints the events it receives.

mod external;
mod stack;
mod watcher;

use std::pin::pin;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::ending::{Ending, Endings};
use crate::install;
use crate::progress::{print, say, step};
use crate::services::Binaries;
use crate::simulator::{Account, Plan, Publisher, Settings, sample, top_account};
use crate::workspace::RunDir;
use external::ExternalBrokers;
use stack::Stack;
use watcher::Watcher;

/// The options of `cargo dev up`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Stop this long after everything is ready (such as "20s" or "5m"); fails if no event arrived
    #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
    pub time: Option<Duration>,
    /// Calls that begin per second in the simulated KAZOO; 0 turns the simulation off
    #[arg(long, value_name = "N", default_value_t = 1.0, value_parser = rate)]
    pub calls_per_second: f64,
    /// Use this AMQP broker instead of starting one. The simulated KAZOO publishes there, unless --calls-per-second is
    /// 0
    #[arg(long, value_name = "URL")]
    pub amqp: Option<String>,
    /// Use this NATS server (with JetStream) instead of starting one
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Read KAZOO's keys, accounts and secrets from this CouchDB, beside the sample accounts. User and password may be in
    /// the URL
    #[arg(long, value_name = "URL")]
    pub couchdb: Option<String>,
    /// The WebSocket port [default: 5555, or a free one if that is taken]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.0..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err("must be a number between 0 and 10000".into()),
    }
}

/// The state of a run.
#[derive(Default)]
struct Run {
    external: Option<ExternalBrokers>,
    ready: bool,
    received: u64,
}

/// Runs until the time is up, a signal arrives, or something fails.
pub async fn run(options: Options) -> Result<ExitCode> {
    let mut endings = Endings::listen()?;
    let dir = RunDir::create("up")?;
    let mut stack = Stack::default();
    let mut run = Run::default();
    // `None`: the time of `--for` is up.
    let ended = tokio::select! {
        ended = session(&options, &dir, &mut stack, &mut run) => ended,
        ending = endings.next() => Ok(Some(ending)),
    };
    if let Err(error) = &ended {
        say(format_args!("error: {error:#}"));
    }
    let stop = async {
        stack.stop().await;
        if let Some(external) = &run.external
            && stack.is_started()
        {
            external.clean_up().await;
        }
    };
    tokio::select! {
        () = stop => {}
        // A second signal: do not wait. Dropping the processes kills them.
        _ = endings.next() => say("killing the remaining processes"),
    }
    let stack_was_started = stack.is_started();
    drop(stack);
    if run.ready {
        let _ = print(format_args!("{} events received", run.received));
    }
    let code = match ended {
        Err(_) => {
            if stack_was_started {
                say(format_args!("the logs are in {} until the next run", dir.path().display()));
                return Ok(ExitCode::FAILURE);
            }
            ExitCode::FAILURE
        }
        Ok(None) if run.received == 0 => ExitCode::FAILURE,
        Ok(None) => ExitCode::SUCCESS,
        // Without `--for`, this is the normal way to end it.
        Ok(Some(Ending::Interrupt | Ending::NobodyReads)) if run.ready && options.time.is_none() => {
            ExitCode::SUCCESS
        }
        Ok(Some(ending)) => ending.exit_code(),
    };
    dir.remove()?;
    Ok(code)
}

async fn session(
    options: &Options,
    dir: &RunDir,
    stack: &mut Stack,
    run: &mut Run,
) -> Result<Option<Ending>> {
    let port = stack::websocket_port(options.port)?;
    let external = run.external.insert(ExternalBrokers::inspect(options).await?);
    install::ensure(&needed(options), dir.path()).await?;
    say("building the services");
    let binaries = Binaries::build(dir.path()).await?;
    let accounts = sample()?;
    let top = top_account(&accounts)?.id.clone();
    let amqp = stack.start(options, external, dir, &binaries, port).await?;
    let token = stack.token(&binaries, dir.path(), &top).await?;
    let publisher = step("connecting the simulated KAZOO", Publisher::connect(&amqp)).await?;
    let named =
        |account: &Account| [&account.id, &account.realm].map(|id| (id.clone(), account.name.clone()));
    let names = accounts.iter().flat_map(named).collect();
    let mut watcher = step("connecting a client", Watcher::connect(port, &token, names)).await?;
    run.ready = true;

    let settings = Settings {
        seed: rand::random(),
        calls_per_second: options.calls_per_second,
        start: SystemTime::now(),
        accounts,
    };
    let mut plan = Plan::new(settings);
    let simulation = publisher.run_with_retries(&mut plan, std::future::pending());
    let ended = tokio::select! {
        ended = watch(options, port, &token, &mut watcher, run) => match ended {
            Ok(ended) => ended,
            Err(error) => return Err(cause(error, stack).await),
        },
        never = forever(simulation) => never,
        error = stack.death() => return Err(error),
    };
    say(format_args!("{} events published", publisher.confirmed()));
    let _ = publisher.close().await;
    Ok(ended)
}

/// Prints the events that the client receives, until the time is up or nobody reads the output.
async fn watch(
    options: &Options,
    port: u16,
    token: &str,
    watcher: &mut Watcher,
    run: &mut Run,
) -> Result<Option<Ending>> {
    let how_to_end =
        options.time.map_or("press Ctrl-C to stop".to_owned(), |time| format!("stopping after {time:?}"));
    say(format_args!("everything is ready; {how_to_end}"));
    let head = format!(
        "console  http://127.0.0.1:{port}/#token={token}&account=*\n\
         socket   ws://127.0.0.1:{port}\n\
         token    {token}"
    );
    if print(head).is_err() {
        return Ok(Some(Ending::NobodyReads));
    }
    let mut time_is_up = pin!(async {
        match options.time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            () = &mut time_is_up => return Ok(None),
            line = watcher.next() => {
                let line = line?;
                run.received += 1;
                if print(line).is_err() {
                    return Ok(Some(Ending::NobodyReads));
                }
            }
        }
    }
}

/// The reason why the client lost its connection: the end of a process, if there was one.
async fn cause(error: anyhow::Error, stack: &Stack) -> anyhow::Error {
    tokio::time::timeout(Duration::from_secs(1), stack.death()).await.unwrap_or(error)
}

/// Never completes: a plan without calls is over at once, which must not end the run.
async fn forever<T>(work: impl Future<Output = ()>) -> T {
    work.await;
    std::future::pending().await
}

fn needed(options: &Options) -> Vec<install::Tool> {
    let external = |tool: &install::Tool| match *tool {
        install::NATS_SERVER => options.nats.is_some(),
        _ => options.amqp.is_some(),
    };
    install::FOR_UP.iter().filter(|tool| !external(tool)).copied().collect()
}
