//! Answers: one token and one wish in, one verdict out.

use std::sync::Arc;

use blackhole_common::wire::{Access, AuthReply, AuthRequest, Bearer};

use crate::{
    access::{self, ALL, Denial},
    directory::{Account, AccountDirectory},
    error::Error,
    refusal::Refusal,
    verifier::TokenVerifier,
};

/// Answers requests: verifies the token, then decides what it may see.
pub struct Authority {
    verifier: Arc<dyn TokenVerifier>,
    directory: Arc<dyn AccountDirectory>,
}

/// An answer, and what it is called in metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What the asker gets.
    pub reply: AuthReply,
    /// Why something is refused or denied; a fixed label.
    pub reason: Option<&'static str>,
}

impl Authority {
    /// An authority over these tokens and accounts.
    pub fn new(verifier: Arc<dyn TokenVerifier>, directory: Arc<dyn AccountDirectory>) -> Authority {
        Authority { verifier, directory }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// When there is no answer now, because a source cannot be asked. A refusal is an answer.
    pub async fn answer(&self, request: &AuthRequest) -> Result<Answer, Error> {
        match self.decide(request).await {
            Ok(answer) => Ok(answer),
            Err(Error::Refused(refusal)) => Ok(Answer {
                reply: AuthReply::Refused { reason: refusal.to_string() },
                reason: Some(refusal.kind()),
            }),
            Err(other) => Err(other),
        }
    }

    async fn decide(&self, request: &AuthRequest) -> Result<Answer, Error> {
        let verified = self.verifier.verify(&request.token).await?;
        let account = self.directory.account(&verified.account_id).await?.ok_or(Refusal::UnknownAccount)?;
        if !account.enabled {
            return Err(Refusal::DisabledAccount.into());
        }
        let access = match request.account_id.as_deref() {
            None => Ok(visible(&account)),
            Some(wanted) if wanted == account.id => Ok(visible(&account)),
            Some(ALL) => access::may_see_all(&account).map(|()| Access::All),
            Some(wanted) => match self.directory.account(wanted).await? {
                Some(wanted) => access::may_see(&account, &wanted).map(|()| visible(&wanted)),
                None => Err(Denial::Unknown),
            },
        };
        let bearer = Bearer {
            account_id: account.id.clone(),
            expires_at: verified.expires_at,
            superduper_admin: account.superduper_admin,
            token_id: Some(verified.token_id),
        };
        let (access, reason) = match access {
            Ok(access) => (access, None),
            Err(denial) => (Access::Denied { reason: denial.reason().into() }, Some(denial.kind())),
        };
        Ok(Answer { reply: AuthReply::Accepted { bearer, access }, reason })
    }
}

fn visible(account: &Account) -> Access {
    Access::Account { account_id: account.id.clone(), realm: account.realm.clone() }
}

#[cfg(test)]
mod tests;
