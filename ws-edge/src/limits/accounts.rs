//! What accounts take of the edge: sessions, and distinct subjects. An account pays for the sessions of its own tokens,
//! also where these subscribe to other accounts.

use std::{
    collections::{
        HashMap,
        hash_map::{Entry, RandomState},
    },
    hash::BuildHasher,
    sync::Arc,
};

use parking_lot::Mutex;
use thiserror::Error;

/// Why an account gets no more; the text is for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Exceeded {
    /// It has as many sessions as it may.
    #[error("too many sessions : at most {0} per account")]
    Sessions(usize),
    /// It has as many distinct subjects as it may.
    #[error("too many subjects : at most {0} per account")]
    Subjects(usize),
}

impl Exceeded {
    /// The label of the metric.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Exceeded::Sessions(_) => "account_sessions",
            Exceeded::Subjects(_) => "account_subjects",
        }
    }
}

/// The accounts that have sessions.
#[derive(Debug)]
pub(crate) struct Accounts {
    ledger: Arc<Ledger>,
}

#[derive(Debug)]
struct Ledger {
    max_sessions: usize,
    max_subjects: usize,
    /// Subjects are kept as hashes of 64 bits: two that share one count once.
    hasher: RandomState,
    accounts: Mutex<HashMap<Arc<str>, Use>>,
}

/// What one account takes.
#[derive(Debug, Default)]
struct Use {
    sessions: usize,
    /// How many bindings have each subject.
    subjects: HashMap<u64, u32>,
}

/// A session of an account, until it is dropped.
#[derive(Debug)]
pub(crate) struct AccountSession {
    account: Arc<str>,
    ledger: Arc<Ledger>,
}

/// What a binding takes, until it is dropped. The default takes nothing.
#[derive(Debug, Default)]
pub struct Share {
    session: Option<Arc<AccountSession>>,
    subjects: Box<[u64]>,
    bytes: usize,
}

impl Accounts {
    /// At most this many sessions and distinct subjects per account.
    pub(crate) fn new(max_sessions: usize, max_subjects: usize) -> Accounts {
        let (hasher, accounts) = (RandomState::new(), Mutex::default());
        Accounts { ledger: Arc::new(Ledger { max_sessions, max_subjects, hasher, accounts }) }
    }

    /// A new session of an account.
    pub(crate) fn enter(&self, account: &str) -> Result<Arc<AccountSession>, Exceeded> {
        let mut accounts = self.ledger.accounts.lock();
        let known = accounts.get_key_value(account).map(|(account, own)| (Arc::clone(account), own.sessions));
        let (account, sessions) = known.unwrap_or_else(|| (account.into(), 0));
        if sessions >= self.ledger.max_sessions {
            return Err(Exceeded::Sessions(self.ledger.max_sessions));
        }
        accounts.entry(Arc::clone(&account)).or_default().sessions += 1;
        Ok(Arc::new(AccountSession { account, ledger: Arc::clone(&self.ledger) }))
    }
}

impl AccountSession {
    /// The account.
    pub(crate) fn account(&self) -> &Arc<str> {
        &self.account
    }

    /// The share of a binding with these subjects, which takes about `bytes` of memory.
    pub(crate) fn share(self: &Arc<Self>, subjects: &[String], bytes: usize) -> Result<Share, Exceeded> {
        let hashes: Box<[u64]> =
            subjects.iter().map(|subject| self.ledger.hasher.hash_one(subject.as_str())).collect();
        let mut accounts = self.ledger.accounts.lock();
        let own = accounts.entry(Arc::clone(&self.account)).or_default();
        let new = hashes.iter().filter(|hash| !own.subjects.contains_key(hash)).count();
        if new > 0 && own.subjects.len().saturating_add(new) > self.ledger.max_subjects {
            return Err(Exceeded::Subjects(self.ledger.max_subjects));
        }
        for hash in &hashes {
            *own.subjects.entry(*hash).or_default() += 1;
        }
        Ok(Share { session: Some(Arc::clone(self)), subjects: hashes, bytes })
    }
}

impl Share {
    /// About how much memory the binding takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(session) = &self.session else { return };
        let mut accounts = session.ledger.accounts.lock();
        let Some(own) = accounts.get_mut(&session.account) else { return };
        for hash in &self.subjects {
            if let Entry::Occupied(mut bindings) = own.subjects.entry(*hash) {
                *bindings.get_mut() -= 1;
                if *bindings.get() == 0 {
                    bindings.remove();
                }
            }
        }
        if own.subjects.len() < own.subjects.capacity() / 8 {
            own.subjects.shrink_to_fit();
        }
    }
}

impl Drop for AccountSession {
    fn drop(&mut self) {
        // Its shares keep a session, so an account without sessions has no subjects.
        if let Entry::Occupied(mut own) = self.ledger.accounts.lock().entry(Arc::clone(&self.account)) {
            own.get_mut().sessions -= 1;
            if own.get().sessions == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects(numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|number| format!("ev.acc.call.*.{number}")).collect()
    }

    #[test]
    fn sessions_of_an_account_are_limited_and_those_of_others_are_not_affected() {
        let accounts = Accounts::new(2, 9);
        let held = [(); 2].map(|()| accounts.enter("one").unwrap());
        assert_eq!(
            accounts.enter("one").unwrap_err().to_string(),
            "too many sessions : at most 2 per account"
        );
        let _other = accounts.enter("other").unwrap();
        drop(held);
        assert!(accounts.enter("one").is_ok());
        assert_eq!(accounts.ledger.accounts.lock().len(), 1, "accounts without sessions are forgotten");
    }

    #[test]
    fn a_subject_counts_once_for_all_sessions_of_an_account() {
        let accounts = Accounts::new(9, 5);
        let [one, two] = [(); 2].map(|()| accounts.enter("acc").unwrap());
        let first = one.share(&subjects(0..3), 100).unwrap();
        let second = two.share(&subjects(0..5), 100).unwrap();
        let error = two.share(&subjects(4..6), 100).unwrap_err();
        assert_eq!(error.to_string(), "too many subjects : at most 5 per account");
        assert!(one.share(&subjects(2..5), 100).is_ok(), "all of these are known");
        drop(second);
        assert!(two.share(&subjects(4..6), 100).is_ok());
        assert_eq!(
            two.share(&subjects(3..6), 100).unwrap_err(),
            Exceeded::Subjects(5),
            "three are still held"
        );
        drop(first);
        assert!(two.share(&subjects(3..6), 100).is_ok());
    }

    #[test]
    fn a_large_share_leaves_no_memory_behind() {
        let accounts = Accounts::new(9, 100_000);
        let session = accounts.enter("acc").unwrap();
        let capacity = || accounts.ledger.accounts.lock()["acc"].subjects.capacity();
        let large = session.share(&subjects(0..50_000), 100).unwrap();
        assert!(capacity() >= 50_000);
        drop(large);
        assert_eq!(capacity(), 0);
    }

    #[test]
    fn a_share_keeps_its_session() {
        let accounts = Accounts::new(1, 9);
        let session = accounts.enter("acc").unwrap();
        let share = session.share(&subjects(0..1), 100).unwrap();
        drop(session);
        assert!(accounts.enter("acc").is_err());
        drop(share);
        assert!(accounts.ledger.accounts.lock().is_empty());
    }
}
