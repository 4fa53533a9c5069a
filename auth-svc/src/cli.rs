//! The command line.

use std::{
    io::{self, Read},
    path::Path,
    sync::Arc,
    time::Duration,
};

use blackhole_common::{cli::ConfigArgs, wire::MAX_TOKEN_BYTES};
use clap::{Args, Parser, Subcommand};

use crate::{
    accounts::Accounts,
    claims,
    config::{AuthSvcConfig, MintConfig},
    error::Error,
    explain::Explanation,
    jwt::JwtVerifier,
    keys::Keys,
    mint,
    reload::{FromFiles, Reloaded},
};

/// Says who bears a token and what of an account it may see, for the other Blackhole services, over NATS
#[derive(Debug, Parser)]
#[command(
    name = "auth-svc",
    version,
    after_help = "Without a command it serves until SIGTERM. It needs auth.accounts_file, and auth.jwt.keys_dir \
                  (or, for development, auth.jwt.hs256_secret), in the configuration or the environment:\n\n  \
                  BLACKHOLE_AUTH__ACCOUNTS_FILE=accounts.toml BLACKHOLE_AUTH__JWT__KEYS_DIR=keys auth-svc"
)]
pub struct Cli {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of serving.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mint a token for development, signed with auth.jwt.hs256_secret, and print it
    Token(TokenArgs),
    /// Explain a token: what it says, whether each check passes, what it may see. Exit code 0 if it is good, else 1
    CheckToken(CheckTokenArgs),
}

/// `auth-svc token`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The id of the account that bears the token
    #[arg(long, value_name = "ID")]
    pub account: String,
    /// How long it is good, such as 90m, 8h or 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    pub ttl: Duration,
    /// The id of the user that bears it
    #[arg(long, value_name = "ID")]
    pub owner: Option<String>,
}

/// `auth-svc check-token`.
#[derive(Debug, Args)]
pub struct CheckTokenArgs {
    /// The token; `-` reads it from standard input, where it stays out of the shell's history and of `ps`
    #[arg(value_name = "TOKEN", default_value = "-", allow_hyphen_values = true)]
    pub token: String,
}

impl TokenArgs {
    /// The token.
    ///
    /// # Errors
    /// When it cannot be made as asked.
    pub fn mint(&self, config: &MintConfig) -> Result<String, Error> {
        let Some(secret) = &config.auth.jwt.hs256_secret else {
            return Err(Error::Mint("auth.jwt.hs256_secret is not set".into()));
        };
        mint::mint(secret, &self.account, self.owner.as_deref(), self.ttl)
    }
}

impl CheckTokenArgs {
    /// Explains the token, with the keys and accounts of the configuration; NATS is not needed.
    ///
    /// # Errors
    /// When the token, the keys or the accounts cannot be read.
    pub fn explain(&self, config: &AuthSvcConfig) -> Result<Explanation, Error> {
        let token = self.token()?;
        let keys = config.auth.jwt.keys_dir.as_deref().map(Reloaded::<Keys>::open).transpose()?.map(Arc::new);
        let verifier = JwtVerifier::new(config.auth.jwt.hs256_secret.as_ref(), keys);
        let accounts = Accounts::read(config.auth.accounts_file.as_deref().unwrap_or(Path::new("")))?;
        Ok(Explanation::of(token.trim(), &verifier, &accounts, claims::unix_now()))
    }

    fn token(&self) -> Result<String, Error> {
        if self.token != "-" {
            return Ok(self.token.clone());
        }
        let mut token = String::new();
        // Some more than is accepted, to tell a long token from a good one.
        let limit = 2 * MAX_TOKEN_BYTES as u64;
        let read = io::stdin().lock().take(limit).read_to_string(&mut token);
        read.map_err(|reason| Error::unreadable(Path::new("standard input"), reason))?;
        Ok(token)
    }
}
