//! The brokers and services of a run, started in the order of their dependencies and stopped in reverse order.

use std::path::Path;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Options;
use super::external::ExternalBrokers;
use crate::brokers::{Nats, RabbitMq};
use crate::ports;
use crate::progress::{say, step};
use crate::server::Server;
use crate::services::{Binaries, Service, run_command};
use crate::simulator::SAMPLE_ACCOUNTS;
use crate::workspace::RunDir;

const DEFAULT_PORT: u16 = 5555;

/// What has been started so far. Dropping it kills those processes.
#[derive(Default)]
pub(super) struct Stack {
    ws_edge: Option<Service>,
    amqp_ingest: Option<Service>,
    auth_svc: Option<Service>,
    rabbitmq: Option<RabbitMq>,
    nats: Option<Nats>,
    auth_env: Vec<(&'static str, String)>,
}

/// The requested port, or the default port, or a free one if the default is taken.
pub(super) fn websocket_port(requested: Option<u16>) -> Result<u16> {
    match requested {
        Some(port) if !ports::is_free(port) => bail!("port {port} is taken"),
        Some(port) => Ok(port),
        None if ports::is_free(DEFAULT_PORT) => Ok(DEFAULT_PORT),
        None => {
            let port = ports::free()?;
            say(format_args!("port {DEFAULT_PORT} is taken: using {port}"));
            Ok(port)
        }
    }
}

impl Stack {
    /// Starts the services, and the brokers that the user does not provide. Returns the URL of the AMQP broker.
    pub(super) async fn start(
        &mut self,
        options: &Options,
        external: &ExternalBrokers,
        run: &RunDir,
        binaries: &Binaries,
        port: u16,
    ) -> Result<String> {
        if let Some(url) = &options.couchdb {
            self.auth_env.push(("AUTH__COUCHDB__URL", url.clone()));
            // The simulated KAZOO has accounts of its own, and the client that prints its events a token of theirs.
            self.auth_env.push(("AUTH__JWT__DANGEROUS_SECRET_BESIDE_KEYS", "true".to_owned()));
        }
        let nats = self.start_nats(options, run).await?;
        let amqp = self.start_rabbitmq(options, run).await?;
        self.start_services(&nats, &amqp, external, run, binaries, port).await?;
        Ok(amqp)
    }

    async fn start_nats(&mut self, options: &Options, run: &RunDir) -> Result<String> {
        if let Some(url) = &options.nats {
            return Ok(url.clone());
        }
        let nats = step("starting NATS", Nats::start(&run.subdir("nats")?)).await?;
        let url = nats.url();
        self.nats = Some(nats);
        Ok(url)
    }

    async fn start_rabbitmq(&mut self, options: &Options, run: &RunDir) -> Result<String> {
        if let Some(url) = &options.amqp {
            return Ok(url.clone());
        }
        let rabbitmq = step("starting RabbitMQ", RabbitMq::start(&run.subdir("rabbitmq")?)).await?;
        let url = rabbitmq.url();
        self.rabbitmq = Some(rabbitmq);
        Ok(url)
    }

    async fn start_services(
        &mut self,
        nats: &str,
        amqp: &str,
        external: &ExternalBrokers,
        run: &RunDir,
        binaries: &Binaries,
        port: u16,
    ) -> Result<()> {
        let accounts = run.path().join("accounts.toml");
        std::fs::write(&accounts, SAMPLE_ACCOUNTS).context("cannot write the sample accounts")?;
        let secret: String = (0..4).map(|_| format!("{:016x}", rand::random::<u64>())).collect();
        let mut common = vec![("NATS__URL", nats.to_owned()), ("LOG__FILTER", "info".to_owned())];
        common.extend(external.for_all());
        let with = |more: Vec<(&'static str, String)>| [common.clone(), more].concat();

        self.auth_env.extend(with(vec![
            ("AUTH__ACCOUNTS_FILE", accounts.to_string_lossy().into_owned()),
            ("AUTH__JWT__HS256_SECRET", secret),
        ]));
        let start = Service::start("auth-svc", &binaries.auth_svc, run.path(), &self.auth_env);
        self.auth_svc = Some(step("starting auth-svc", start).await?);

        let mut env = with(vec![("AMQP__URL", amqp.to_owned())]);
        env.extend(external.for_ingest());
        let start = Service::start("amqp-ingest", &binaries.amqp_ingest, run.path(), &env);
        self.amqp_ingest = Some(step("starting amqp-ingest", start).await?);

        let env = with(vec![("WS__LISTEN", format!("127.0.0.1:{port}"))]);
        let start = Service::start("ws-edge", &binaries.ws_edge, run.path(), &env);
        self.ws_edge = Some(step("starting ws-edge", start).await?);
        Ok(())
    }

    /// A token of this account, created with auth-svc's own configuration.
    pub(super) async fn token(&self, binaries: &Binaries, dir: &Path, account_id: &str) -> Result<String> {
        let args = ["token", "--account", account_id, "--ttl", "12h"];
        run_command(&binaries.auth_svc, &args, dir, &self.auth_env).await.context("cannot create a token")
    }

    /// Whether anything has been started.
    pub(super) fn is_started(&self) -> bool {
        self.servers().next().is_some()
    }

    /// Waits until one of them ends unexpectedly.
    pub(super) async fn death(&self) -> anyhow::Error {
        let mut deaths: FuturesUnordered<_> = self.servers().map(Server::died).collect();
        match deaths.next().await {
            Some(death) => death,
            None => std::future::pending().await,
        }
    }

    /// Stops everything, each process after those that depend on it.
    pub(super) async fn stop(&self) {
        if !self.is_started() {
            return;
        }
        let stop = async {
            for server in self.servers() {
                if let Err(error) = server.stop().await {
                    say(format_args!("{error:#}"));
                }
            }
            Ok(())
        };
        let _ = step("stopping", stop).await;
    }

    fn servers(&self) -> impl Iterator<Item = &Server> {
        let services = [&self.ws_edge, &self.amqp_ingest, &self.auth_svc];
        let services = services.into_iter().flatten().map(Service::server);
        let rabbitmq = self.rabbitmq.iter().map(RabbitMq::server);
        services.chain(rabbitmq).chain(self.nats.iter().map(Nats::server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_port_that_is_taken_is_an_error() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(websocket_port(Some(port)).unwrap_err().to_string(), format!("port {port} is taken"));
    }
}
