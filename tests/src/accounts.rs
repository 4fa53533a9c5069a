//! Accounts and tokens. The accounts file contains all accounts from the start; each test takes unused ones.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// The HS256 secret that signs the tokens.
pub const SECRET: &str = "a secret for the tests only, long enough";
/// The superduper admin's account, the ancestor of all others.
pub const TOP: &str = "ffffffffffffffffffffffffffffffff";
/// A disabled account.
pub const DISABLED: &str = "d15ab1edd15ab1edd15ab1edd15ab1ed";

/// Pairs of accounts in the file: more than the tests use.
const PAIRS: usize = 600;

/// An account.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// Its SIP realm.
    pub realm: String,
}

/// A reseller and its child account.
#[derive(Clone, Debug)]
pub struct AccountPair {
    /// The reseller.
    pub parent: Account,
    /// Its child.
    pub child: Account,
}

impl AccountPair {
    fn number(number: usize) -> AccountPair {
        let account = |kind: char, name: &str| Account {
            id: format!("{kind}{number:031x}"),
            realm: format!("{name}{number}.example.com"),
        };
        AccountPair { parent: account('a', "parent"), child: account('c', "child") }
    }

    /// A pair that no other test uses.
    pub fn fresh() -> AccountPair {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < PAIRS, "the tests use more accounts than there are: raise PAIRS");
        AccountPair::number(number)
    }
}

impl Account {
    /// An account that no other test uses.
    pub fn fresh() -> Account {
        AccountPair::fresh().parent
    }

    /// Its number in the accounts file.
    pub fn number(&self) -> String {
        let (kind, number) = self.id.split_at(1);
        let number = u32::from_str_radix(number, 16).unwrap();
        format!("+1415{}{number:04}", if kind == "a" { 600 } else { 700 })
    }

    /// A token of this account, valid for an hour.
    pub fn token(&self) -> String {
        token(&self.id, Duration::from_secs(3600))
    }

    /// A token of this account, valid for `time`.
    pub fn token_for(&self, time: Duration) -> String {
        token(&self.id, time)
    }
}

/// The superduper admin's token.
pub fn top_token() -> String {
    token(TOP, Duration::from_secs(3600))
}

/// A token of an account, valid for `time`.
pub fn token(account_id: &str, time: Duration) -> String {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + time;
    signed(&json!({ "iss": "kazoo", "account_id": account_id, "exp": expires.as_secs() }))
}

/// A token with these claims.
pub fn signed(claims: &serde_json::Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// The accounts file.
pub fn file() -> String {
    let mut text = format!(
        "[[account]]\nid = \"{TOP}\"\nname = \"top\"\nrealm = \"top.example.com\"\nsuperduper_admin = true\n\
         [[account]]\nid = \"{DISABLED}\"\nname = \"disabled\"\nrealm = \"off.example.com\"\nparent = \"{TOP}\"\nenabled = false\n"
    );
    for number in 0..PAIRS {
        let AccountPair { parent, child } = AccountPair::number(number);
        for (account, parent_id) in [(&parent, TOP), (&child, &parent.id)] {
            write!(
                text,
                "[[account]]\nid = \"{}\"\nname = \"test\"\nrealm = \"{}\"\nparent = \"{parent_id}\"\nnumbers = [\"{}\"]\n",
                account.id,
                account.realm,
                account.number()
            )
            .unwrap();
        }
    }
    text
}
