//! Which events belong to the account of the dialled number: the first of an inbound call, which name no account yet.

use serde::Deserialize;

use super::{Event, TenantKind};

/// Events whose account is that of the dialled number if they name none. It is written where their first account would be,
/// as KAZOO does.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dialled {
    /// The parameter of the routing key that names the call. Its events keep their order while one of them waits.
    pub call: String,
    /// The parameter of the routing key that says which events these are.
    pub key: String,
    /// Its words.
    pub values: Vec<String>,
}

impl Event {
    /// Whether the account of this event is that of the dialled number if it names none.
    pub fn is_dialled(&self, key: &str) -> bool {
        self.dialled.as_ref().is_some_and(|dialled| {
            let word = self.key.position(&dialled.key).and_then(|position| key.split('.').nth(position));
            word.is_some_and(|word| dialled.values.iter().any(|value| value == word))
        })
    }

    /// How many words of the routing key follow the one that names the call.
    pub fn words_after_call(&self) -> Option<usize> {
        let position = self.key.position(&self.dialled.as_ref()?.call)?;
        self.key.parts().len().checked_sub(position + 1)
    }

    /// The path of the member of the body in which the account is expected, and where it is written.
    pub fn account_member(&self) -> Option<&str> {
        let is_account = |kind| kind == TenantKind::Account;
        self.tenant.iter().find_map(|source| source.body.as_deref().filter(|_| is_account(source.kind)))
    }
}

impl Dialled {
    /// Checks that everything that is named exists.
    pub(super) fn check(&self, event: &Event) -> Result<(), String> {
        for name in [&self.call, &self.key] {
            if event.key.position(name).is_none() {
                return Err(format!("`{name}` is no parameter of the key"));
            }
        }
        if let Some(value) = self.values.iter().find(|value| !event.allows(&self.key, value)) {
            return Err(format!("no event has `{value}` there: it is not among the parameter's values"));
        }
        let is_nested = event.account_member().is_some_and(|path| path.split('.').count() == 2);
        if !is_nested {
            return Err(
                "a tenant must be an account in a member of a member of the body, where it is written".into(),
            );
        }
        Ok(())
    }
}
