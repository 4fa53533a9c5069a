//! The command line.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use blackhole_common::{cli::ConfigArgs, version, wire::MAX_TOKEN_BYTES};
use clap::{Args, Parser, Subcommand};
use prometheus_client::registry::Registry;

use crate::{
    accounts::Accounts,
    announce::Announcer,
    claims,
    config::{self, AuthSvcConfig, MintConfig, Source},
    couchdb::{CouchDb, verifier::LiveVerifier},
    error::Error,
    explain::Explanation,
    issuers::Issuer,
    jwt_verifier::JwtVerifier,
    metrics::Metrics,
    mint,
    reload::Reloaded,
    users::{UserDirectory, Users},
};

/// Verifies tokens and decides which accounts they can access, for the other Blackhole services, over NATS
#[derive(Debug, Parser)]
#[command(
    name = "auth-svc",
    version = version::with_commit(),
    after_help = "Without a command it serves until SIGTERM. It requires auth.couchdb.url, or auth.accounts_file and \
                  auth.jwt.keys_dir (or, for development, auth.jwt.hs256_secret), in the configuration or the \
                  environment:\n\n  BLACKHOLE_AUTH__COUCHDB__URL=http://127.0.0.1:15984 auth-svc"
)]
pub struct Cli {
    /// Options for the configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The command to run instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// A command to run instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mint a development token, signed with auth.jwt.hs256_secret, and print it
    Token(TokenArgs),
    /// Explain a token: its claims, the result of each check, the accessible accounts. Exit code 0 if it is
    /// valid, else 1
    CheckToken(CheckTokenArgs),
    /// Ask CouchDB for everything that is needed, and print what it answers. Exit code 0 if nothing is missing, else 1
    CheckSources,
}

/// `auth-svc token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The id of the token's account
    #[arg(long, value_name = "ID")]
    pub account: String,
    /// How long it is valid, such as 90m, 8h or 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// The id of the token's user
    #[arg(long, value_name = "ID")]
    pub owner: Option<String>,
}

/// `auth-svc check-token`.
#[derive(Debug, Args)]
pub struct CheckTokenArgs {
    /// The token; `-` reads it from standard input, which keeps it out of the shell's history and of `ps`
    #[arg(value_name = "TOKEN", default_value = "-", allow_hyphen_values = true)]
    pub token: String,
}

impl TokenArgs {
    /// Mints the token.
    ///
    /// # Errors
    /// If the arguments are invalid, or there is no secret.
    pub fn mint(&self, config: &MintConfig) -> Result<String, Error> {
        let Some(secret) = &config.auth.jwt.hs256_secret else {
            return Err(Error::Mint("auth.jwt.hs256_secret is not set".into()));
        };
        mint::mint(secret, &self.account, self.owner.as_deref(), self.ttl)
    }
}

impl CheckTokenArgs {
    /// Explains the token, with the configured keys and accounts. Does not need NATS.
    ///
    /// # Errors
    /// If the token, the keys or the accounts cannot be read.
    pub async fn explain(&self, config: &AuthSvcConfig) -> Result<Explanation, Error> {
        let token = self.token()?;
        let (token, now) = (token.trim(), claims::unix_now());
        let file = config.auth.accounts_file().map(Reloaded::<Accounts>::open).transpose()?;
        let in_file: Vec<_> =
            file.iter().flat_map(|file| file.current().iter().cloned().collect::<Vec<_>>()).collect();
        let mut users: Vec<Arc<dyn UserDirectory>> = Vec::new();
        users.extend(file.map(|file| Arc::new(file) as Arc<dyn UserDirectory>));
        let Some(settings) = config.auth.couchdb() else {
            let verifier = JwtVerifier::new(Issuer::all(&config.auth, None)?);
            let explanation = Explanation::of(token, &verifier, &Accounts::collect(in_file), now);
            return match config.auth.users {
                config::Users::Account => Ok(explanation),
                config::Users::Own => explanation.of_user(token, &Users::new(users), now).await,
            };
        };
        let metrics = Metrics::new(&mut Registry::default());
        let couchdb = CouchDb::new(settings, &Announcer::default(), Arc::default(), &metrics)
            .map_err(Error::CouchDb)?;
        couchdb.load().await.map_err(|error| Error::CouchDb(error.to_string()))?;
        let mut accounts = vec![couchdb.accounts.all(), in_file];
        if config.auth.sources().first() == Some(&Source::Files) {
            accounts.reverse();
        }
        let accounts = Accounts::collect(accounts.into_iter().flatten());
        let jwt = JwtVerifier::new(Issuer::all(&config.auth, Some(&couchdb))?);
        let couchdb = Arc::new(couchdb);
        users.insert(0, Arc::clone(&couchdb) as _);
        if config.auth.sources().first() == Some(&Source::Files) {
            users.reverse();
        }
        let verifier = LiveVerifier::new(jwt, couchdb);
        let explanation = Explanation::live(token, &verifier, &accounts, now).await?;
        match config.auth.users {
            config::Users::Account => Ok(explanation),
            config::Users::Own => explanation.of_user(token, &Users::new(users), now).await,
        }
    }

    fn token(&self) -> Result<String, Error> {
        if self.token != "-" {
            return Ok(self.token.clone());
        }
        let mut token = String::new();
        // Read more than is accepted, so that a token that is too long is reported as such.
        let limit = 2 * MAX_TOKEN_BYTES as u64;
        let read = io::stdin().lock().take(limit).read_to_string(&mut token);
        read.map_err(|reason| Error::unreadable(Path::new("standard input"), reason))?;
        Ok(token)
    }
}
