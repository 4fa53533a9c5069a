//! Helpers for unit tests: keys, accounts, an authority, temporary directories.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use futures_util::future::{self, BoxFuture};

use crate::{
    accounts::Accounts, authority::Authority, claims::VerifiedToken, error::Error, issuers::Scope,
    realms::Realms, refusal::Refusal, reload::Reloaded, verifier::TokenVerifier,
};

pub(crate) const RSA_PRIVATE_PKCS1: &str = include_str!("testdata/rsa-private-pkcs1.pem");
pub(crate) const RSA_PRIVATE_PKCS8: &str = include_str!("testdata/rsa-private-pkcs8.pem");
pub(crate) const RSA_PUBLIC: &str = include_str!("testdata/rsa-public.pem");
pub(crate) const RSA_PUBLIC_PKCS1: &str = include_str!("testdata/rsa-public-pkcs1.pem");
pub(crate) const RSA_1024_PUBLIC: &str = include_str!("testdata/rsa-1024-public.pem");
pub(crate) const RSA_2047_PUBLIC: &str = include_str!("testdata/rsa-2047-public.pem");
pub(crate) const RSA_EVEN_PUBLIC: &str = include_str!("testdata/rsa-even-public.pem");
pub(crate) const RSA_4096_PRIVATE: &str = include_str!("testdata/rsa-4096-private.pem");
pub(crate) const RSA_4096_PUBLIC: &str = include_str!("testdata/rsa-4096-public.pem");
pub(crate) const KAZOO_PRIVATE: &str = include_str!("testdata/kazoo-private.pem");
pub(crate) const KAZOO_PUBLIC: &str = include_str!("testdata/kazoo-public.pem");
/// Tokens of KAZOO, signed with [`KAZOO_PRIVATE`], whose id is `96247ed90b4bec8294c09ae6ece923a2`.
pub(crate) const KAZOO_TOKENS: &str = include_str!("testdata/kazoo-tokens.txt");
pub(crate) const P256_COMPRESSED: &str = include_str!("testdata/p256-compressed.pem");
pub(crate) const P256_PRIVATE: &str = include_str!("testdata/p256-private.pem");
pub(crate) const P256_PUBLIC: &str = include_str!("testdata/p256-public.pem");
pub(crate) const P384_PRIVATE: &str = include_str!("testdata/p384-private.pem");
pub(crate) const P521_PUBLIC: &str = include_str!("testdata/p521-public.pem");
pub(crate) const P384_PUBLIC: &str = include_str!("testdata/p384-public.pem");
pub(crate) const ED25519_PRIVATE: &str = include_str!("testdata/ed25519-private.pem");
pub(crate) const ED25519_PUBLIC: &str = include_str!("testdata/ed25519-public.pem");
pub(crate) const CERTIFICATE: &str = include_str!("testdata/certificate.pem");
pub(crate) const SECRET: &str = "a secret for unit tests";

/// `system` > `reseller` > `child` and the disabled `closed` > `below-closed`.
pub(crate) const ACCOUNTS: &str = r#"
[[account]]
id = "system"
name = "System"
realm = "system.example.com"
superduper_admin = true

[[account]]
id = "reseller"
name = "Reseller"
realm = "Reseller.example.com"
parent = "system"

[[account]]
id = "child"
name = "Child"
realm = "child.example.com"
parent = "reseller"

[[account]]
id = "closed"
name = "Closed"
realm = "closed.example.com"
parent = "reseller"
enabled = false

[[account]]
id = "below-closed"
name = "Below closed"
realm = "below.example.com"
parent = "closed"
"#;

/// Treats a token as its account's id, after `below ID: ` with an issuer that may name only accounts from there on, after
/// `only ID: ` only this one; `bad` is invalid, `later` cannot be verified now.
struct PlainTokens;

impl TokenVerifier for PlainTokens {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(future::ready(match token {
            "bad" => Err(Refusal::Signature.into()),
            "later" => Err(Error::Unavailable { what: "keys", reason: "timeout".into() }),
            token => {
                let restricted = token.strip_prefix("below ").or(token.strip_prefix("only "));
                let (top, id) = restricted.and_then(|token| token.split_once(": ")).unwrap_or(("*", token));
                Ok(VerifiedToken {
                    account_id: id.into(),
                    expires_at: 9,
                    owner_id: None,
                    token_id: format!("id of {id}"),
                    scope: Arc::new(Scope::of(&[top.into()], token.starts_with("below"))),
                })
            }
        }))
    }
}

/// An authority over [`PlainTokens`] and these accounts.
pub(crate) fn authority(accounts: &str) -> Authority {
    let dir = TempDir::new();
    let file = dir.write("accounts.toml", accounts);
    let accounts = Reloaded::<Accounts>::open(&file).unwrap();
    let realms = Realms::default();
    realms.replace(accounts.current().realms());
    Authority::new(Arc::new(PlainTokens), Arc::new(accounts), Arc::new(realms))
}

/// A directory that is removed when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("auth-svc-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in place and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
