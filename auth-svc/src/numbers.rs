//! Whose a dialled number is: the first events of an inbound call name no account, but the number.

use std::sync::Arc;

use blackhole_common::wire::{NumberReply, NumberRequest};
use futures_util::future::{self, BoxFuture};

use crate::{
    accounts::Accounts, config::Source, couchdb::numbers::LiveNumbers, error::Error, reload::Reloaded,
};

/// Looks up dialled numbers.
pub trait NumberDirectory: Send + Sync + 'static {
    /// Whether it knows any numbers.
    fn has_numbers(&self) -> bool;

    /// The account that has the number that was dialled, if it is enabled.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the lookup is not possible now.
    fn account_of<'a>(&'a self, dialled: &'a NumberRequest) -> BoxFuture<'a, Result<Option<String>, Error>>;
}

/// The sources of numbers, in the order of `auth.sources`: the first one that has a number decides about it.
#[derive(Clone, Default)]
pub struct Numbers(Vec<Arc<dyn NumberDirectory>>);

impl Numbers {
    /// These directories, the first one first.
    pub fn new(directories: Vec<Arc<dyn NumberDirectory>>) -> Numbers {
        Numbers(directories)
    }

    /// Those of these sources that are there, in this order. Crossbar is none: it tells an account only of its own numbers.
    pub(crate) fn of(
        sources: &[Source],
        couchdb: Option<&Arc<LiveNumbers>>,
        accounts: Option<&Arc<Reloaded<Accounts>>>,
    ) -> Numbers {
        let directory = |source: &Source| match source {
            Source::CouchDb => couchdb.cloned().map(|numbers| numbers as Arc<dyn NumberDirectory>),
            Source::Files => accounts.cloned().map(|accounts| accounts as _),
            Source::Crossbar => None,
        };
        Numbers(sources.iter().filter_map(directory).collect())
    }

    /// Whose the dialled number is.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if that cannot be told now.
    pub async fn answer(&self, dialled: &NumberRequest) -> Result<NumberReply, Error> {
        let mut reply = NumberReply::Unserved;
        for directory in self.0.iter().filter(|directory| directory.has_numbers()) {
            // A source that cannot answer may have the number, so none after it is asked.
            if let Some(account_id) = directory.account_of(dialled).await? {
                return Ok(NumberReply::Assigned { account_id });
            }
            reply = NumberReply::Unassigned;
        }
        Ok(reply)
    }
}

impl NumberDirectory for Reloaded<Accounts> {
    fn has_numbers(&self) -> bool {
        self.current().has_numbers()
    }

    fn account_of<'a>(&'a self, dialled: &'a NumberRequest) -> BoxFuture<'a, Result<Option<String>, Error>> {
        Box::pin(future::ready(Ok(self.current().account_of(dialled).map(|account| account.id.clone()))))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Knows one number.
    struct Directory(Option<&'static str>);

    impl NumberDirectory for Directory {
        fn has_numbers(&self) -> bool {
            self.0.is_some()
        }

        fn account_of<'a>(
            &'a self,
            dialled: &'a NumberRequest,
        ) -> BoxFuture<'a, Result<Option<String>, Error>> {
            let number = dialled.request.clone().unwrap_or_default();
            let answer = match self.0 {
                Some("away") => Err(Error::Unavailable { what: "test", reason: String::new() }),
                known => {
                    Ok(known.filter(|known| *known == number).map(|known| format!("account of {known}")))
                }
            };
            Box::pin(future::ready(answer))
        }
    }

    #[test]
    fn the_first_source_that_has_a_number_decides() {
        let ask = |sources: &[Option<&'static str>], number: &str| {
            let directories = sources.iter().map(|known| Arc::new(Directory(*known)) as _).collect();
            let request = NumberRequest { request: Some(number.into()), ..NumberRequest::default() };
            Numbers::new(directories).answer(&request).now_or_never().unwrap().ok()
        };
        let assigned = |id: &str| Some(NumberReply::Assigned { account_id: id.into() });
        assert_eq!(ask(&[Some("1"), Some("2")], "2"), assigned("account of 2"));
        assert_eq!(ask(&[Some("1"), Some("2")], "3"), Some(NumberReply::Unassigned));
        assert_eq!(ask(&[Some("1"), Some("away")], "1"), assigned("account of 1"));
        assert_eq!(ask(&[Some("away"), Some("1")], "1"), None, "it may have it");
        assert_eq!(ask(&[None, Some("1")], "2"), Some(NumberReply::Unassigned));
        assert_eq!(ask(&[None], "1"), Some(NumberReply::Unserved));
        assert_eq!(ask(&[], "1"), Some(NumberReply::Unserved));
    }
}
