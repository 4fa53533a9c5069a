//! The ways in which somebody ends what runs here, without a failure of its own.

use std::process::ExitCode;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The terminal is gone.
    HangUp,
    /// The reader of the standard output is gone.
    NobodyReads,
}

impl Ending {
    /// The exit code that a shell would show if the signal had killed us.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::HangUp => 129,
            Self::Interrupt => 130,
            Self::NobodyReads => 141,
            Self::Terminate => 143,
        })
    }
}

/// Listens for the signals among them.
pub(crate) struct Endings {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Endings {
    /// Begins to listen; from now on these signals no longer kill us.
    pub(crate) fn listen() -> Result<Self> {
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hang_up: on(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(crate) async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupt,
            _ = self.terminate.recv() => Ending::Terminate,
            _ = self.hang_up.recv() => Ending::HangUp,
        }
    }
}
