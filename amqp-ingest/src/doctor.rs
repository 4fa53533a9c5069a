//! `amqp-ingest doctor`: looks at everything between KAZOO's exchanges and a WebSocket, with the configuration at hand, and
//! says what is right and what is not. It changes nothing.
//!
//! | module | what it looks at |
//! |---|---|
//! | `brokers` | KAZOO's exchanges, the queue and the dead letters of each broker |
//! | `nats` | the server, the stream, the clocks |
//! | `services` | which services run, and the edges' sessions |
//! | `round_trip` | an event from each broker to a WebSocket |

mod brokers;
mod nats;
mod round_trip;
mod services;

use std::{path::PathBuf, time::Duration};

use blackhole_common::{catalogue::Catalogue, report::Report, wire::Subjects};

use crate::config::IngestConfig;

/// The name of its connections in the servers' listings.
const CLIENT_NAME: &str = "amqp-ingest doctor";
/// How long a server may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Options of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// An edge, such as ws://127.0.0.1:5555: an event is sent from each broker to a WebSocket there
    #[arg(long, value_name = "URL", requires = "token_file", requires = "account")]
    edge: Option<String>,
    /// The file of a token for the WebSocket
    #[arg(long, value_name = "FILE", requires = "edge")]
    token_file: Option<PathBuf>,
    /// The id of the account that gets the event, `fax.status.doctor-…`
    #[arg(long, value_name = "ID", requires = "edge")]
    account: Option<String>,
}

/// Looks at everything.
///
/// # Errors
/// If the catalogue cannot be read.
pub async fn examine(config: &IngestConfig, args: &DoctorArgs) -> anyhow::Result<Report> {
    let catalogue = Catalogue::load(config.catalogue.file.as_deref())?;
    let subjects = Subjects::new(&config.nats.prefix);
    let mut report = Report::default();
    brokers::examine(&mut report, config, &catalogue).await;
    nats::examine(&mut report, config, &subjects).await;
    if let (Some(edge), Some(token_file), Some(account)) = (&args.edge, &args.token_file, &args.account) {
        round_trip::examine(&mut report, config, edge, token_file, account).await;
    }
    Ok(report)
}
