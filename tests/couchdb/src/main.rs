//! Serves the documents of a small KAZOO cluster, for trying Blackhole without a CouchDB.

// All of this is test code.
#![allow(clippy::unwrap_used)]

use std::io::Write;

use blackhole_couchdb::{CouchDb, kazoo};
use clap::Parser;

/// A stand-in for KAZOO's CouchDB
#[derive(Parser)]
struct Arguments {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:15984")]
    listen: String,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let couchdb = CouchDb::listen(&Arguments::parse().listen).await?;
    kazoo::fill(&couchdb);
    let mut out = std::io::stdout();
    writeln!(out, "{}", couchdb.url())?;
    writeln!(out, "a user's token: {}", kazoo::token("user"))?;
    std::future::pending().await
}
