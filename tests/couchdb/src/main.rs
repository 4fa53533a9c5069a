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
    /// Add this many accounts below the top account, each with a document of 2 KB in `accounts`
    #[arg(long, default_value_t = 0)]
    accounts: u32,
    /// Add this many users to each of them
    #[arg(long, default_value_t = 0)]
    users: u32,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { listen, accounts, users } = Arguments::parse();
    let couchdb = CouchDb::listen(&listen).await?;
    kazoo::fill(&couchdb);
    kazoo::add(&couchdb, accounts, users);
    let mut out = std::io::stdout();
    writeln!(out, "{}", couchdb.url())?;
    writeln!(out, "a user's token: {}", kazoo::token("user"))?;
    std::future::pending().await
}
