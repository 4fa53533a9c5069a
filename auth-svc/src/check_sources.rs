//! `auth-svc check-sources`: asks each server for everything that the service asks, so that an operator sees what is missing.

use std::{path::Path, sync::Arc, time::Instant};

use blackhole_common::{config::ServerUrl, report::Report};
use prometheus_client::registry::Registry;

use crate::{
    accounts::Accounts,
    announce::Announcer,
    config::{AuthSvcConfig, Users},
    couchdb::{
        CouchDb,
        client::{CouchError, account_database},
        config::CouchDbConfig,
        feed, owned,
    },
    crossbar::Crossbar,
    error::Error,
    issuers::{Reports, config::IssuerConfig, remote::RemoteKeys},
    keys::{Keys, jwk::KeySet},
    metrics::Metrics,
    reload::FromFiles,
};

/// What the sources answer.
struct Sources(Report);

/// Asks all sources.
///
/// # Errors
/// If the configuration is not usable.
pub async fn check(config: &AuthSvcConfig) -> Result<Report, Error> {
    let mut sources = Sources(Report::default());
    sources.ask(config).await?;
    Ok(sources.0)
}

impl Sources {
    async fn ask(&mut self, config: &AuthSvcConfig) -> Result<(), Error> {
        if let Some(settings) = config.auth.couchdb() {
            for url in settings.urls().map_err(Error::CouchDb)? {
                let one = CouchDbConfig { url: ServerUrl::new(url.as_str()), ..settings.clone() };
                self.couchdb(&one, config.auth.users).await?;
            }
        }
        let reports = Reports::default();
        if let Some(settings) = config.auth.crossbar() {
            let latch = reports.readiness.optional("crossbar");
            let crossbar = Crossbar::new(settings, Arc::default(), &reports.metrics, latch);
            let crossbar = crossbar.map_err(Error::Crossbar)?;
            let answer =
                crossbar.ping().await.map(|()| "answers; check-token asks it about a token".to_owned());
            self.0.add(crossbar.url().to_owned(), answer.map_err(|error| error.to_string()));
        }
        for issuer in &config.auth.issuers {
            self.issuer(issuer, &reports).await?;
        }
        if let Some(file) = config.auth.accounts_file() {
            let accounts = Accounts::read(file).map(|accounts| format!("{} accounts", accounts.count()));
            self.0.add(file.display().to_string(), accounts.map_err(|error| error.to_string()));
        }
        if let Some(directory) = &config.auth.jwt.keys_dir {
            self.directory(directory);
        }
        Ok(())
    }

    fn directory(&mut self, directory: &Path) {
        let keys = Keys::read(directory).map(|keys| format!("{} keys", keys.len()));
        self.0.add(directory.display().to_string(), keys.map_err(|error| error.to_string()));
    }

    async fn issuer(&mut self, config: &IssuerConfig, reports: &Reports) -> Result<(), Error> {
        if let Some(directory) = &config.keys_dir {
            self.directory(directory);
        }
        let latch = reports.readiness.optional(&config.iss);
        let remote =
            RemoteKeys::new(config, reports.announcer.clone(), reports.metrics.issuers.clone(), latch);
        let remote = remote.map_err(|reason| Error::Issuer { iss: config.iss.clone(), reason })?;
        let Some(remote) = remote else { return Ok(()) };
        let result = match remote.load().await {
            Err(error) => Err(error.to_string()),
            Ok(keys) if keys.is_empty() => Err(format!("publishes no usable key{}", unused(&keys))),
            Ok(keys) => Ok(format!("{} keys{}", keys.len(), unused(&keys))),
        };
        self.0.add(format!("issuer {}", config.iss), result);
        Ok(())
    }

    async fn couchdb(&mut self, config: &CouchDbConfig, users: Users) -> Result<(), Error> {
        let metrics = Metrics::new(&mut Registry::default());
        let couchdb =
            CouchDb::new(config, &Announcer::default(), Arc::default(), &metrics).map_err(Error::CouchDb)?;
        let client = couchdb.client();
        let server = client.servers().collect::<String>();
        let mut add =
            |what: &str, result: Result<String, String>| self.0.add(format!("{server} {what}"), result);
        for database in ["accounts", "system_auth", "system_config"] {
            let changes = async {
                let info = feed::database(client, database).await?;
                let feed = feed::changes(client, database, &info.update_seq.text()).await;
                feed.map(|_| "changes come".to_owned())
            };
            add(database, changes.await.map_err(|error| error.to_string()));
        }
        let text = |error: CouchError| error.to_string();
        let began = Instant::now();
        let loaded = couchdb.load().await.map_err(text);
        let time = began.elapsed();
        let is_loaded = loaded.is_ok();
        add(
            "documents",
            loaded.map(|()| format!("{} accounts, read in {time:.1?}", couchdb.accounts.all().len())),
        );
        if !is_loaded {
            return Ok(());
        }
        let secret = couchdb.settings.server_secret().ok().flatten();
        let none = "has no secret_for_user_signature: tokens with an identity_sig are refused".to_owned();
        add("system_config/auth", secret.map(|_| "has the server's secret".to_owned()).ok_or(none));
        let key = match couchdb.settings.system_key() {
            None => Err("system_config/auth names no system_key".to_owned()),
            Some(id) => match couchdb.keys.prepare(&id).await {
                Err(error) => Err(error.to_string()),
                Ok(()) if couchdb.keys.get(&id).is_some() => Ok(format!("has the key {id}")),
                Ok(()) => Err(format!("has no usable key {id}, which system_config/auth names")),
            },
        };
        add("system_auth", key);
        let all = couchdb.accounts.all();
        let own = all.iter().find_map(|account| Some((account, account_database(&account.id)?)));
        if let Some((account, database)) = own {
            let path = format!("/{database}/{}", account.id);
            let answer = match client.get(&path).await {
                Ok(Some(_)) => Ok("an account's own database can be read".to_owned()),
                Ok(None) => Err("the account's document is missing in its own database".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            add(&database, answer);
            if users == Users::Own {
                let answer = match client.get(&owned::question(&database, "nobody")).await {
                    Ok(Some(_)) => Ok("the view attributes/owned tells what users own".to_owned()),
                    Ok(None) => {
                        Err("has no view attributes/owned, which auth.users = \"own\" needs".to_owned())
                    }
                    Err(error) => Err(error.to_string()),
                };
                add(&database, answer);
            }
        }
        Ok(())
    }
}

/// Why keys of an issuer are not used.
fn unused(keys: &KeySet) -> String {
    keys.unusable().iter().map(|reason| format!("; not used: {reason}")).collect()
}
