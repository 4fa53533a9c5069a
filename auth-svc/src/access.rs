//! The access rule: which accounts a valid token can access.
//!
//! As in KAZOO, a token of account A can access account B if A is B or an ancestor of B; `*` (all accounts)
//! requires a superduper admin. Both accounts must exist and be enabled. Only their own flags count: a
//! disabled account between A and B, or above A, changes nothing. KAZOO disables a whole tree by setting the
//! flag of each account in it, so if only a reseller's own flag is set, only that account is meant to be
//! disabled. (Its tokens are refused, so accounts below it can be accessed only from further up.)

use crate::directory::Account;

/// Requests all accounts, in place of an account id.
pub const ALL: &str = "*";

/// Why access is denied, for the operator's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// `*` was requested, but the bearer is not a superduper admin.
    NotSuperduper,
    /// The account does not exist.
    Unknown,
    /// The account is neither the bearer's nor a descendant of it.
    NotBelow,
    /// The token's issuer may not see the account.
    NotListed,
    /// The account is disabled.
    Disabled,
}

impl Denial {
    /// A fixed label for metrics and logs.
    pub fn kind(self) -> &'static str {
        match self {
            Denial::NotSuperduper => "not_superduper_admin",
            Denial::Unknown => "unknown_account",
            Denial::NotBelow => "not_below",
            Denial::NotListed => "not_listed",
            Denial::Disabled => "disabled_account",
        }
    }

    /// The reason as text.
    pub fn reason(self) -> &'static str {
        match self {
            Denial::NotSuperduper => "only a superduper admin can access all accounts",
            Denial::Unknown => "unknown account",
            Denial::NotBelow => "neither the token's account nor below it",
            Denial::NotListed => "the token's issuer may not see it",
            Denial::Disabled => "account is disabled",
        }
    }
}

/// Checks whether tokens of `bearer` can access `account`. `bearer` must be enabled; otherwise the token is refused.
///
/// # Errors
/// The reason, if not.
pub fn check(bearer: &Account, account: &Account) -> Result<(), Denial> {
    // This order does not reveal whether an inaccessible account is disabled.
    if bearer.id != account.id && !account.ancestors.contains(&bearer.id) {
        return Err(Denial::NotBelow);
    }
    if account.enabled { Ok(()) } else { Err(Denial::Disabled) }
}

/// Checks whether tokens of `bearer` can access all accounts, and events without a tenant.
///
/// # Errors
/// The reason, if not.
pub fn check_all(bearer: &Account) -> Result<(), Denial> {
    if bearer.superduper_admin { Ok(()) } else { Err(Denial::NotSuperduper) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_reasons_do_not_change() {
        for (denial, kind, reason) in [
            (
                Denial::NotSuperduper,
                "not_superduper_admin",
                "only a superduper admin can access all accounts",
            ),
            (Denial::Unknown, "unknown_account", "unknown account"),
            (Denial::NotBelow, "not_below", "neither the token's account nor below it"),
            (Denial::NotListed, "not_listed", "the token's issuer may not see it"),
            (Denial::Disabled, "disabled_account", "account is disabled"),
        ] {
            assert_eq!((denial.kind(), denial.reason()), (kind, reason));
        }
    }
}
