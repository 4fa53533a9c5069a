//! auth-svc: serves until SIGTERM, or mints or explains a token.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use auth_svc::{
    AuthSvc,
    cli::{Cli, Command, TokenArgs},
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
        Some(Command::CheckToken(args)) => arguments.config.read().map_err(Into::into).and_then(|config| {
            let explanation = args.explain(&config)?;
            write!(io::stdout(), "{explanation}")?;
            Ok(if explanation.is_valid() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }),
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
