//! auth-svc: serves until SIGTERM, or mints or explains a token.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use auth_svc::{
    AuthSvc, check_sources,
    cli::{CheckTokenArgs, Cli, Command, TokenArgs},
    config::{AuthSvcConfig, MintConfig},
};
use blackhole_common::{
    cli::{self, ConfigArgs},
    shutdown, telemetry, version,
};
use clap::Parser;

fn main() -> ExitCode {
    let arguments = Cli::parse();
    let result = match &arguments.command {
        None => tokio::runtime::Runtime::new().map_err(Into::into).and_then(|runtime| {
            let result = runtime.block_on(serve(&arguments.config));
            // Do not wait for a file that cannot be read, such as one of a file server that is gone.
            runtime.shutdown_background();
            result
        }),
        Some(Command::Token(args)) => token(&arguments.config, args),
        Some(Command::CheckToken(args)) => command(check_token(&arguments.config, args)),
        Some(Command::CheckSources) => command(ask_sources(&arguments.config)),
    };
    cli::finish("auth-svc", result)
}

async fn serve(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let Some(loaded) = args.load::<AuthSvcConfig>()? else { return Ok(ExitCode::SUCCESS) };
    telemetry::init_logs(&loaded.config.log);
    let config = loaded.logged();
    let shutdown = shutdown::on_signal()?;
    let service = AuthSvc::start(config).await?;
    tracing::info!(version = version::with_commit(), admin = %service.admin_address()?, "started");
    service.run(shutdown).await?;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Runs a command to its end.
fn command(run: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run)
}

async fn check_token(args: &ConfigArgs, token: &CheckTokenArgs) -> anyhow::Result<ExitCode> {
    let config: AuthSvcConfig = args.read()?;
    let explanation = token.explain(&config).await?;
    write!(io::stdout(), "{explanation}")?;
    Ok(if explanation.is_valid() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn ask_sources(args: &ConfigArgs) -> anyhow::Result<ExitCode> {
    let config: AuthSvcConfig = args.read()?;
    let report = check_sources::check(&config).await?;
    write!(io::stdout(), "{report}")?;
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn token(args: &ConfigArgs, token: &TokenArgs) -> anyhow::Result<ExitCode> {
    let config: MintConfig = args.read()?;
    let minted = token.mint(&config)?;
    writeln!(
        io::stderr(),
        "a development token, valid for {}; anyone who knows auth.jwt.hs256_secret can mint any token",
        humantime::format_duration(token.ttl)
    )?;
    writeln!(io::stdout(), "{minted}")?;
    Ok(ExitCode::SUCCESS)
}
