//! Which account has which realm, and since when.
//!
//! Some events name only a realm. The history still holds those of a realm's former owner when it passes to another
//! account, and the new owner must not read them. So auth-svc remembers the owners, also across its restarts: in a
//! [bucket](store) of NATS that all its instances share.
//!
//! Realms and accounts are remembered as digests of the same length, so a hundred thousand of them take 6 MB.

mod shard;
pub mod store;

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use tokio::sync::Notify;

use self::shard::{Digest, Shard};
use crate::claims::unix_millis;

/// The number of shards, each of which is a key of the bucket: the first byte of the realm's digest selects it. With a
/// million accounts a shard has 350 KB, and a message may have 1 MiB.
const SHARDS: usize = 256;

/// The owners of all realms.
#[derive(Debug)]
pub struct Realms {
    shards: Mutex<Vec<Shard>>,
    changed: Notify,
}

impl Default for Realms {
    fn default() -> Self {
        let shards = std::iter::repeat_with(Shard::default).take(SHARDS).collect();
        Realms { shards: Mutex::new(shards), changed: Notify::new() }
    }
}

impl Realms {
    /// Takes over all realms, with the accounts that have them now. Who has a realm that was another's before, or
    /// nobody's, has it since now.
    pub fn replace<S: AsRef<str>>(&self, owners: impl Iterator<Item = (S, S)>) {
        let now_ms = unix_millis();
        let mut shards = self.shards.lock();
        let mut new: Vec<Vec<(Digest, Digest)>> = vec![Vec::new(); SHARDS];
        for (realm, account) in owners {
            let realm = digest_of_realm(realm.as_ref());
            if let Some(shard) = new.get_mut(index(realm)) {
                shard.push((realm, digest_of(account.as_ref())));
            }
        }
        for (shard, owners) in shards.iter_mut().zip(new) {
            shard.replace(owners, now_ms);
        }
        drop(shards);
        self.changed.notify_one();
    }

    /// This account has the realm now; `None`: nobody, or it is disputed.
    pub fn set(&self, realm: &str, account: Option<&str>) {
        let realm = digest_of_realm(realm);
        let account = account.map(digest_of);
        self.change(index(realm), |shard| shard.set(realm, account, unix_millis()));
        self.changed.notify_one();
    }

    /// Since when the account has the realm, in milliseconds since 1970. `None`: since before auth-svc knew the realm.
    pub fn since_ms(&self, realm: &str, account: &str) -> Option<u64> {
        let realm = digest_of_realm(realm);
        let shards = self.shards.lock();
        let owner = shards.get(index(realm)).and_then(|shard| shard.owner(realm));
        match owner {
            Some(owner) if owner.account == digest_of(account) => {
                Some(owner.since_ms).filter(|&since| since > 0)
            }
            // It passes on at this moment.
            _ => Some(unix_millis()),
        }
    }

    /// Takes over what the bucket has at the start. `None` for a shard that it does not have.
    fn begin(&self, stored: &[Option<Shard>]) {
        let now_ms = unix_millis();
        let none = Shard::default();
        // With nothing at all, this is the very first start. Some may be missing because that one was interrupted.
        let is_first = stored.iter().all(Option::is_none);
        for (shard, stored) in self.shards.lock().iter_mut().zip(stored) {
            if is_first {
                shard.forgotten();
            } else {
                shard.begin(stored.as_ref().unwrap_or(&none), now_ms);
            }
        }
    }

    /// Takes over what another instance has stored, and returns what both became.
    fn merge(&self, index: usize, stored: &Shard) -> Shard {
        self.change(index, |shard| {
            shard.merge(stored);
            shard.clone()
        })
    }

    /// The bucket is empty, or another one.
    fn forgotten(&self) {
        self.shards.lock().iter_mut().for_each(Shard::forgotten);
    }

    /// The bucket cannot be read: nothing is known of earlier owners.
    fn distrust(&self) {
        let now_ms = unix_millis();
        self.shards.lock().iter_mut().for_each(|shard| shard.distrust(now_ms));
    }

    /// What the bucket does not have yet.
    fn changed_shards(&self) -> Vec<(usize, Shard)> {
        let shards = self.shards.lock();
        shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| shard.is_changed)
            .map(|(index, shard)| (index, shard.clone()))
            .collect()
    }

    /// The bucket has this version now.
    fn stored(&self, index: usize, version: &Shard, revision: u64) {
        self.change(index, |shard| shard.stored(version, revision));
    }

    fn change<R: Default>(&self, index: usize, change: impl FnOnce(&mut Shard) -> R) -> R {
        self.shards.lock().get_mut(index).map(change).unwrap_or_default()
    }
}

fn digest_of_realm(realm: &str) -> Digest {
    digest_of(&realm.to_ascii_lowercase())
}

/// The first half of the SHA-256 digest: nobody finds two names with the same.
fn digest_of(name: &str) -> Digest {
    let digest = digest(&SHA256, name.as_bytes());
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

fn index(realm: Digest) -> usize {
    let [first, ..] = realm;
    usize::from(first)
}

#[cfg(test)]
mod tests;
