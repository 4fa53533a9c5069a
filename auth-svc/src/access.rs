//! What a good token may see.
//!
//! KAZOO's rule: a token of account A may see account B if A is B, or A is among B's ancestors; `*` (all accounts)
//! needs a superduper admin. Besides, both have to be there and enabled, each by its own flag. A disabled account
//! *between* A and B changes nothing, and neither does one above A: KAZOO keeps the flag per account and disables
//! a tree by setting each flag in it, so an operator who disabled one reseller account alone meant that one. (Its
//! own tokens are refused, so what is below it can be seen from further up only.)

use crate::directory::Account;

/// In place of an account id: all accounts.
pub const ALL: &str = "*";

/// Why an account stays hidden, for the operator's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denial {
    /// `*`, and the bearer is no superduper admin.
    NotSuperduper,
    /// The account is not there.
    Unknown,
    /// The account is neither the bearer's nor below it.
    NotBelow,
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
            Denial::Disabled => "disabled_account",
        }
    }

    /// The reason in words.
    pub fn reason(self) -> &'static str {
        match self {
            Denial::NotSuperduper => "only a superduper admin may see all accounts",
            Denial::Unknown => "unknown account",
            Denial::NotBelow => "neither the token's account nor below it",
            Denial::Disabled => "account is disabled",
        }
    }
}

/// Whether tokens of `bearer` may see `account`. That `bearer` is enabled is taken for granted: otherwise the token
/// is refused as a whole.
///
/// # Errors
/// Why not.
pub fn may_see(bearer: &Account, account: &Account) -> Result<(), Denial> {
    // In this order: whether a stranger's account is disabled is none of the bearer's business.
    if bearer.id != account.id && !account.ancestors.contains(&bearer.id) {
        return Err(Denial::NotBelow);
    }
    if account.enabled { Ok(()) } else { Err(Denial::Disabled) }
}

/// Whether tokens of `bearer` may see all accounts, and what belongs to none.
///
/// # Errors
/// Why not.
pub fn may_see_all(bearer: &Account) -> Result<(), Denial> {
    if bearer.superduper_admin { Ok(()) } else { Err(Denial::NotSuperduper) }
}
