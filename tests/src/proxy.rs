//! A TCP proxy that can be told to be a bad network.

use std::{net::Ipv4Addr, sync::Arc};

use blackhole_dev::ports;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp},
    sync::watch,
    task::JoinSet,
};

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// They arrive.
    Fine,
    /// Connections are cut, and new ones too.
    Cut,
    /// Nothing arrives and nobody is told; those that were open at that time never move again.
    Swallows,
    /// Nothing moves for a while; afterwards everything arrives.
    Stalls,
}

/// A proxy in front of one port of this machine.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    network: Arc<watch::Sender<Network>>,
    _serving: JoinSet<()>,
}

impl Proxy {
    /// Listens on a port of its own and passes on to `upstream`.
    pub async fn start(upstream: u16) -> Proxy {
        let port = ports::free().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let network = Arc::new(watch::Sender::new(Network::Fine));
        let mut serving = JoinSet::new();
        let own = Arc::clone(&network);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { continue };
                        connections.spawn(carry(client, upstream, own.subscribe()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Proxy { port, network, _serving: serving }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the network.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn carry(client: TcpStream, upstream: u16, mut network: watch::Receiver<Network>) {
    if *network.borrow_and_update() == Network::Cut {
        return;
    }
    let there = network.clone();
    let carried = async {
        // What was connected into the void stays there.
        pass(there.clone()).await;
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, upstream)).await else { return };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = one_way(from_client, to_server, there.clone()) => {}
            () = one_way(from_server, to_client, there) => {}
        }
    };
    tokio::select! {
        () = carried => {}
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
}

async fn one_way(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    network: watch::Receiver<Network>,
) {
    let mut bytes = vec![0; 64 * 1024];
    loop {
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        pass(network.clone()).await;
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits until bytes may pass; for ever, once they were swallowed.
async fn pass(mut network: watch::Receiver<Network>) {
    loop {
        let now = *network.borrow_and_update();
        match now {
            Network::Fine | Network::Cut => return,
            Network::Swallows => std::future::pending().await,
            Network::Stalls => drop(network.changed().await),
        }
    }
}
