//! An ingest as a process that can be killed and frozen.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use amqp_ingest::{IngestConfig, simulated};
use blackhole_common::{
    catalogue::Catalogue,
    nats::{link::Servers, requests::Requests},
    net::Dial,
};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::rabbitmq::{self, Checkpoints};

/// A running ingest. It is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Ingest {
    task: JoinHandle<()>,
    freezer: Arc<Mutex<Freezer>>,
}

/// Whether a process stands still.
#[derive(Debug, Default)]
struct Freezer {
    is_frozen: bool,
    waker: Option<Waker>,
}

impl Ingest {
    /// Starts an ingest that publishes to `servers` what it gets from the broker.
    pub(crate) fn start(
        config: IngestConfig,
        catalogue: Arc<Catalogue>,
        servers: Servers,
        dialer: rabbitmq::Dialer,
        auth_svc: Arc<dyn Requests>,
    ) -> Ingest {
        let checkpoints = Arc::new(Checkpoints { rabbitmq: Arc::clone(&dialer.rabbitmq) });
        let network: Arc<dyn Dial> = Arc::new(dialer);
        let shutdown = CancellationToken::new();
        let running =
            simulated::run(config, catalogue, servers, network, checkpoints, Some(auth_svc), shutdown);
        let freezer = Arc::default();
        let process = Process { running: Box::pin(running), freezer: Arc::clone(&freezer) };
        Ingest { task: tokio::spawn(process), freezer }
    }

    /// Stops the process as SIGSTOP does, or continues it.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        let mut freezer = self.freezer.lock();
        freezer.is_frozen = is_frozen;
        if let Some(waker) = freezer.waker.take_if(|_| !is_frozen) {
            waker.wake();
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The work of a process.
struct Process<F> {
    running: Pin<Box<F>>,
    freezer: Arc<Mutex<Freezer>>,
}

impl<F: Future<Output = ()>> Future for Process<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut freezer = self.freezer.lock();
            if freezer.is_frozen {
                freezer.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
        }
        self.running.as_mut().poll(context)
    }
}
