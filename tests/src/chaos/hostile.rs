//! Hostile clients beside a chaos run: floods of control frames and fragments, and sessions that claim to stand at the
//! beginning of the stream. The edges die under them, so every failure only begins another attempt.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use blackhole_dev::websocket::{CONTINUATION, PING, PONG, TEXT, TEXT_START, client_frame, upgrade_request};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime,
    time::{sleep, timeout},
};

use crate::accounts::Account;

/// Bytes in one write of a flood.
const WRITE_BYTES: usize = 16 << 10;
/// Writes of one flooding connection; the edge closes it before.
const WRITES: usize = 200;
/// Time for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between the attempts of one client.
const PAUSE: Duration = Duration::from_millis(20);
/// Sessions that resume from the beginning of the stream.
const RESUMING: usize = 12;

/// Hostile clients, until they are stopped.
pub struct Hostile {
    is_over: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Hostile {
    /// Starts them against these edges.
    pub fn start(ports: Vec<u16>) -> Hostile {
        let (is_over, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (is_over, attempts) = (Arc::clone(&is_over), Arc::clone(&attempts));
            thread::spawn(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(run(&ports, &is_over, &attempts));
            })
        };
        Hostile { is_over, attempts, thread }
    }

    /// Stops them. Returns how many attempts there were.
    pub fn stop(self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.attempts.load(Ordering::Relaxed)
    }
}

async fn run(ports: &[u16], is_over: &AtomicBool, attempts: &AtomicU64) {
    let account = Account::fresh();
    let repeat = |number: usize| {
        let account = &account;
        async move {
            while !is_over.load(Ordering::Relaxed) {
                let port = ports[number % ports.len()];
                let attempt = async {
                    if number < RESUMING { resume(port, account).await } else { flood(port, number).await }
                };
                // An edge that is dead or has closed the connection is as good as one that answers.
                let _ = timeout(ATTEMPT_TIMEOUT, attempt).await;
                attempts.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE).await;
            }
        }
    };
    futures_util::future::join_all((0..RESUMING + 4).map(repeat)).await;
}

async fn session(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(upgrade_request("/?view=args", &[]).as_bytes()).await?;
    stream.read_u8().await?;
    Ok(stream)
}

/// Subscribes to many bindings from a forged cursor at the beginning, and reads a little.
async fn resume(port: u16, account: &Account) -> std::io::Result<()> {
    let mut stream = session(port).await?;
    let bindings: Vec<String> = (0..40).map(|call| format!("call.*.{call}")).collect();
    let data = json!({ "account_id": account.id, "bindings": bindings, "since": "-10m" });
    let request = json!({ "action": "subscribe", "auth_token": account.token(), "data": data });
    stream.write_all(&client_frame(TEXT, request.to_string().as_bytes())).await?;
    let mut reply = vec![0; 4096];
    while stream.read(&mut reply).await? == reply.len() {}
    Ok(())
}

/// Sends control frames, empty fragments or requests that are none as fast as they are taken.
async fn flood(port: u16, number: usize) -> std::io::Result<()> {
    let first = [PING, PONG, CONTINUATION, TEXT][number % 4];
    let mut stream = session(port).await?;
    if first == CONTINUATION {
        stream.write_all(&client_frame(TEXT_START, b"")).await?;
    }
    let frame = client_frame(first, if first == TEXT { b"{}" } else { b"" });
    let frames = frame.repeat(WRITE_BYTES / frame.len());
    for _ in 0..WRITES {
        stream.write_all(&frames).await?;
    }
    Ok(())
}
