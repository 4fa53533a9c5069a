//! The services' configuration in rendered objects, and stand-ins for the files that it names.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::succeeds;
use crate::process::Spec;
use crate::workspace;

/// How the chart writes the configuration into a ConfigMap.
const KEY: &str = "\n  blackhole.toml: |\n";
const COMPONENT: &str = "app.kubernetes.io/component: ";

/// The configuration of each service in rendered objects, as service and TOML.
pub(super) fn of(objects: &str) -> Vec<(String, String)> {
    let documents = objects.split("\n---\n");
    let configuration = |document: &str| {
        let (before, text) = document.split_once(KEY)?;
        let service = before.split_once(COMPONENT)?.1.lines().next()?;
        let lines = text.lines().take_while(|line| line.starts_with("    ") || line.trim().is_empty());
        let toml = lines.map(str::trim).collect::<Vec<_>>().join("\n");
        Some((service.to_owned(), toml))
    };
    documents.filter_map(configuration).collect()
}

/// Makes the files that the example values name below `/etc/blackhole`, in `dir`.
pub(super) async fn files(dir: &Path, log: &Path) -> Result<PathBuf> {
    let openssl = |arguments: &str| Spec::new("openssl").log(log).dir(dir).args(arguments.split(' '));
    for folder in ["nats", "admin", "ca", "accounts", "keys", "idp-keys", "catalogue"] {
        let folder = dir.join(folder);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    std::fs::write(dir.join("admin/token"), "0123456789abcdef\n")?;
    std::fs::write(dir.join("nats/service.creds"), "")?;
    std::fs::write(dir.join("catalogue/catalogue.toml"), "")?;
    std::fs::copy(workspace::root()?.join("deploy/dev/accounts.toml"), dir.join("accounts/accounts.toml"))?;
    let certificate = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=test \
                       -keyout nats/tls.key -out nats/tls.crt";
    succeeds(openssl(certificate), "a certificate", log).await?;
    std::fs::copy(dir.join("nats/tls.crt"), dir.join("ca/ca-bundle.pem"))?;
    for keys in ["keys", "idp-keys"] {
        let public = format!("pkey -in nats/tls.key -pubout -out {keys}/one.pem");
        succeeds(openssl(&public), "a public key", log).await?;
    }
    Ok(dir.to_owned())
}
