//! The owners of some realms, and their form in the bucket.

use std::collections::HashMap;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

/// Stands for a realm's or an account's name.
pub(super) type Digest = [u8; 16];

/// The account that has a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) account: Digest,
    /// In milliseconds since 1970. 0: since before auth-svc knew the realm.
    pub(super) since_ms: u64,
}

/// The owners of some realms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shard {
    owners: HashMap<Digest, Owner>,
    /// Whether it has been filled before. Until then nothing is known of earlier owners.
    is_known: bool,
    /// Whether the bucket's version differs, or is not known.
    pub(super) is_changed: bool,
    /// The revision of the bucket's version, 0 if there is none.
    pub(super) revision: u64,
}

impl Shard {
    pub(super) fn owner(&self, realm: Digest) -> Option<Owner> {
        self.owners.get(&realm).copied()
    }

    /// Takes over the present owners.
    pub(super) fn replace(&mut self, owners: Vec<(Digest, Digest)>, now_ms: u64) {
        let since = |realm, account| match self.owners.get(&realm) {
            Some(before) if before.account == account => before.since_ms,
            None if !self.is_known => 0,
            _ => now_ms,
        };
        let new: HashMap<Digest, Owner> = owners
            .into_iter()
            .map(|(realm, account)| (realm, Owner { account, since_ms: since(realm, account) }))
            .collect();
        if new != self.owners || !self.is_known {
            self.owners = new;
            self.is_changed = true;
        }
        self.is_known = true;
    }

    /// One owner changes.
    pub(super) fn set(&mut self, realm: Digest, account: Option<Digest>, now_ms: u64) {
        let is_same = self.owners.get(&realm).map(|owner| owner.account) == account;
        if is_same {
            return;
        }
        match account {
            Some(account) => drop(self.owners.insert(realm, Owner { account, since_ms: now_ms })),
            None => drop(self.owners.remove(&realm)),
        }
        self.is_changed = true;
    }

    /// Takes over what the bucket had at the start. Who is not the owner there has the realm since now.
    pub(super) fn begin(&mut self, stored: &Shard, now_ms: u64) {
        for (realm, owner) in &mut self.owners {
            owner.since_ms = match stored.owner(*realm) {
                Some(before) if before.account == owner.account => before.since_ms.max(owner.since_ms),
                _ => now_ms,
            };
        }
        self.revision = stored.revision;
        self.is_changed = self.owners != stored.owners;
    }

    /// Takes over what another instance has stored: the later time counts. Where it knows another owner, its accounts or
    /// this instance's are out of date for a moment; nothing is concluded from that.
    pub(super) fn merge(&mut self, stored: &Shard) {
        for (realm, owner) in &mut self.owners {
            match stored.owner(*realm) {
                Some(other) if other.account == owner.account && other.since_ms >= owner.since_ms => {
                    owner.since_ms = other.since_ms;
                }
                Some(other) if other.account != owner.account => {}
                _ => self.is_changed = true,
            }
        }
        self.revision = stored.revision;
    }

    /// The bucket has none of it any more.
    pub(super) fn forgotten(&mut self) {
        self.revision = 0;
        self.is_changed = true;
    }

    /// The bucket has this version now. The shard may have changed since.
    pub(super) fn stored(&mut self, version: &Shard, revision: u64) {
        self.revision = revision;
        self.is_changed = self.owners != version.owners;
    }

    /// Nothing is known of earlier owners, and there may have been some.
    pub(super) fn distrust(&mut self, now_ms: u64) {
        self.owners.values_mut().for_each(|owner| owner.since_ms = now_ms);
        self.is_changed = true;
    }

    /// The form in the bucket: a line for each realm, with its digest, the account's, and since when.
    pub(super) fn to_text(&self) -> String {
        let mut lines: Vec<String> = self
            .owners
            .iter()
            .map(|(realm, owner)| {
                let [realm, account] =
                    [realm, &owner.account].map(|digest| BASE64_URL_SAFE_NO_PAD.encode(digest));
                format!("{realm} {account} {}\n", owner.since_ms)
            })
            .collect();
        lines.sort_unstable();
        lines.concat()
    }

    /// Reads [`Shard::to_text`]. `None` if it is something else.
    pub(super) fn parse(text: &[u8], revision: u64) -> Option<Shard> {
        let digest = |text: &str| BASE64_URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok();
        let line = |line: &str| -> Option<(Digest, Owner)> {
            let mut words = line.split(' ');
            let (realm, account, since) = (words.next()?, words.next()?, words.next()?);
            Some((digest(realm)?, Owner { account: digest(account)?, since_ms: since.parse().ok()? }))
        };
        let owners = std::str::from_utf8(text).ok()?.lines().map(line).collect::<Option<_>>()?;
        Some(Shard { owners, is_known: true, is_changed: false, revision })
    }
}
