//! The command line.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use blackhole_common::{cli::ConfigArgs, version, wire::MAX_TOKEN_BYTES};
use clap::{Args, Parser, Subcommand};

use crate::{
    accounts::Accounts,
    claims,
    config::{AuthSvcConfig, MintConfig, Source},
    couchdb::{CouchDb, verifier::LiveVerifier},
    crossbar::{Crossbar, verifier::CrossbarVerifier},
    directory::AccountDirectory,
    error::Error,
    explain::Explanation,
    issuers::{Issuer, Reports},
    jwt_verifier::JwtVerifier,
    mint,
    reload::FromFiles,
    token::Token,
};

/// Verifies tokens and decides which accounts they can access, for the other Blackhole services, over NATS
#[derive(Debug, Parser)]
#[command(
    name = "auth-svc",
    version = version::with_commit(),
    after_help = "Without a command it serves until SIGTERM. It requires auth.couchdb.url, auth.crossbar.url, or \
                  auth.accounts_file and auth.jwt.keys_dir (or, for development, auth.jwt.hs256_secret), in the configuration or the \
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
    /// Ask CouchDB, Crossbar and the issuers for what is needed, and print what they answer. Exit code 0 if nothing is
    /// missing, else 1
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
        let (sources, reports) = (config.auth.sources(), Reports::default());
        let couchdb = match config.auth.couchdb() {
            None => None,
            Some(settings) => {
                let couchdb = CouchDb::new(settings, &reports.announcer, Arc::default(), &reports.metrics)
                    .map_err(Error::CouchDb)?;
                couchdb.load().await.map_err(|error| Error::CouchDb(error.to_string()))?;
                Some(Arc::new(couchdb))
            }
        };
        let crossbar = match config.auth.crossbar() {
            None => None,
            Some(settings) => {
                let latch = reports.readiness.optional("crossbar");
                let crossbar = Crossbar::new(settings, Arc::default(), &reports.metrics, latch);
                Some(Arc::new(crossbar.map_err(Error::Crossbar)?))
            }
        };
        let mut accounts = Vec::new();
        for source in &sources {
            match source {
                Source::Files => {
                    let file = config.auth.accounts_file().map(Accounts::read).transpose()?;
                    accounts.extend(file.iter().flat_map(Accounts::iter).cloned());
                }
                Source::CouchDb => accounts.extend(couchdb.iter().flat_map(|couchdb| couchdb.accounts.all())),
                // It has no list: only the token's own account is known.
                Source::Crossbar => {
                    let own = Token::parse(token).and_then(|token| {
                        let claims = token.claims()?;
                        claims::account(&claims, claims::ACCOUNT)
                    });
                    if let (Some(crossbar), Ok(own)) = (&crossbar, own) {
                        accounts.extend(crossbar.account(&own, token).await?);
                    }
                }
            }
        }
        let accounts = Accounts::collect(accounts);
        let issuers = Issuer::all(&config.auth, couchdb.as_deref(), &reports)?;
        let jwt = JwtVerifier::new(issuers.clone());
        if let Some(crossbar) = crossbar {
            let other = Arc::new(JwtVerifier::new(issuers.clone()));
            if CrossbarVerifier::new(Arc::clone(&crossbar), &sources, &issuers, other).decides(token) {
                return Explanation::by_crossbar(token, &crossbar, &accounts, now).await;
            }
        }
        match couchdb {
            Some(couchdb) => Explanation::live(token, &LiveVerifier::new(jwt, couchdb), &accounts, now).await,
            None => {
                jwt.prepare(token).await?;
                Ok(Explanation::of(token, &jwt, &accounts, now))
            }
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
