//! A TCP proxy that simulates network faults.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use blackhole_dev::ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// The state of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Bytes arrive.
    Up,
    /// Connections are closed, new ones too.
    Cut,
    /// Bytes get lost without an error. Connections that were open meanwhile stay dead.
    Dropping,
    /// Bytes are delayed until the state changes.
    Stalled,
}

/// A proxy for a port of this machine.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    network: Arc<watch::Sender<Network>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port and forwards to the port `upstream`.
    pub async fn start(upstream: u16) -> Proxy {
        Proxy::distant(upstream, Duration::ZERO).await
    }

    /// As [`Proxy::start`]; bytes are on their way for `delay`, in each direction.
    pub async fn distant(upstream: u16, delay: Duration) -> Proxy {
        let port = ports::free().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let network = Arc::new(watch::Sender::new(Network::Up));
        let mut serving = JoinSet::new();
        let own = Arc::clone(&network);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { continue };
                        connections.spawn(forward_connection(client, upstream, delay, own.subscribe()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Proxy { port, network, _serving: serving }
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the state of the network.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn forward_connection(
    client: TcpStream,
    upstream: u16,
    delay: Duration,
    mut network: watch::Receiver<Network>,
) {
    if *network.borrow_and_update() == Network::Cut {
        return;
    }
    let both_ways = network.clone();
    let forwarded = async {
        // A connection that was accepted while bytes were dropped stays dead.
        until_bytes_pass(both_ways.clone()).await;
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = forward(from_client, to_server, delay, both_ways.clone()) => {}
            () = forward(from_server, to_client, delay, both_ways) => {}
        }
    };
    tokio::select! {
        () = forwarded => {}
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
}

async fn forward(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    delay: Duration,
    network: watch::Receiver<Network>,
) {
    let (sender, mut on_their_way) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    let read = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            if sender.send((Instant::now() + delay, bytes[..count].to_vec())).await.is_err() {
                break;
            }
        }
        drop(sender);
        std::future::pending::<()>().await;
    };
    let write = async {
        while let Some((arrival, bytes)) = on_their_way.recv().await {
            sleep_until(arrival).await;
            until_bytes_pass(network.clone()).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    // The end of what is read is passed on after the last bytes.
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}

/// Waits until bytes may pass: forever if they get lost.
async fn until_bytes_pass(mut network: watch::Receiver<Network>) {
    loop {
        let now = *network.borrow_and_update();
        match now {
            Network::Up | Network::Cut => return,
            Network::Dropping => std::future::pending().await,
            Network::Stalled => drop(network.changed().await),
        }
    }
}
