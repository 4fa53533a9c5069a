//! Decides on one request: verifies the token, then checks access to the requested account.

use std::sync::Arc;

use blackhole_common::wire::{Access, AuthReply, AuthRequest, Bearer};

use crate::{
    access::{self, ALL, Denial},
    directory::{Account, AccountDirectory},
    error::Error,
    realms::Realms,
    refusal::Refusal,
    verifier::TokenVerifier,
};

/// Decides on requests.
pub struct Authority {
    verifier: Arc<dyn TokenVerifier>,
    directory: Arc<dyn AccountDirectory>,
    realms: Arc<Realms>,
}

/// A reply, with its label for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The reply to the caller.
    pub reply: AuthReply,
    /// The reason for a refusal or denial, as a fixed label.
    pub reason: Option<&'static str>,
}

impl Authority {
    /// An authority that uses this verifier and directory, and to which `realms` tells since when accounts have their realms.
    pub fn new(
        verifier: Arc<dyn TokenVerifier>,
        directory: Arc<dyn AccountDirectory>,
        realms: Arc<Realms>,
    ) -> Authority {
        Authority { verifier, directory, realms }
    }

    /// Answers a request.
    ///
    /// # Errors
    /// If no decision is possible because a source is unavailable. A refusal is not an error.
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
        let token = &request.token;
        let account = self.directory.account(&verified.account_id, token).await?;
        let account = account.ok_or(Refusal::UnknownAccount)?;
        if !verified.scope.contains(&account) {
            return Err(Refusal::IssuerAccount.into());
        }
        if !account.enabled {
            return Err(Refusal::DisabledAccount.into());
        }
        let access = match request.account_id.as_deref() {
            None => Ok(self.access_to(&account)),
            Some(requested) if requested == account.id => Ok(self.access_to(&account)),
            Some(ALL) if !verified.scope.is_all() => Err(Denial::NotListed),
            Some(ALL) => access::check_all(&account).map(|()| Access::All),
            Some(requested) => match self.directory.account(requested, token).await? {
                Some(requested) if !verified.scope.contains(&requested) => Err(Denial::NotListed),
                Some(requested) => access::check(&account, &requested).map(|()| self.access_to(&requested)),
                None => Err(Denial::Unknown),
            },
        };
        let bearer = Bearer {
            account_id: account.id.clone(),
            expires_at: verified.expires_at,
            superduper_admin: account.superduper_admin && verified.scope.is_all(),
            token_id: Some(verified.token_id),
        };
        let (access, reason) = match access {
            Ok(access) => (access, None),
            Err(denial) => (Access::Denied { reason: denial.reason().into() }, Some(denial.kind())),
        };
        Ok(Answer { reply: AuthReply::Accepted { bearer, access }, reason })
    }

    fn access_to(&self, account: &Account) -> Access {
        let Account { id, realm, .. } = account;
        let realm_since_ms = realm.as_ref().and_then(|realm| self.realms.since_ms(realm, id));
        Access::Account { account_id: id.clone(), realm: realm.clone(), realm_since_ms }
    }
}

#[cfg(test)]
mod tests;
