//! Decides on one request: verifies the token, then checks access to the requested account.

use std::sync::Arc;

use blackhole_common::{
    owner::Own,
    wire::{Access, AuthReply, AuthRequest, Bearer},
};

use crate::{
    access::{self, ALL, Denial},
    directory::{Account, AccountDirectory},
    error::Error,
    realms::Realms,
    refusal::Refusal,
    users::Users,
    verifier::TokenVerifier,
};

/// Decides on requests.
pub struct Authority {
    verifier: Arc<dyn TokenVerifier>,
    directory: Arc<dyn AccountDirectory>,
    realms: Arc<Realms>,
    /// Absent if every token may see all of its account.
    users: Option<Users>,
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
        Authority { verifier, directory, realms, users: None }
    }

    /// The same, but tokens of these users may see only their own events, unless they are admins.
    #[must_use]
    pub fn with_users(self, users: Users) -> Authority {
        Authority { users: Some(users), ..self }
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
        let own = match &self.users {
            Some(users) => users.own(&verified).await?,
            None => None,
        };
        let superduper_admin = account.superduper_admin && own.is_none();
        let access = match request.account_id.as_deref() {
            None => Ok(self.access_to(&account, own)),
            Some(requested) if requested == account.id => Ok(self.access_to(&account, own)),
            Some(_) if own.is_some() => Err(Denial::NotOwn),
            Some(ALL) if !verified.scope.is_all() => Err(Denial::NotListed),
            Some(ALL) => access::check_all(&account).map(|()| Access::All),
            Some(requested) => match self.directory.account(requested, token).await? {
                Some(requested) if !verified.scope.contains(&requested) => Err(Denial::NotListed),
                Some(requested) => {
                    access::check(&account, &requested).map(|()| self.access_to(&requested, None))
                }
                None => Err(Denial::Unknown),
            },
        };
        let bearer = Bearer {
            account_id: account.id.clone(),
            expires_at: verified.expires_at,
            superduper_admin: superduper_admin && verified.scope.is_all(),
            token_id: Some(verified.token_id),
        };
        let (access, reason) = match access {
            Ok(access) => (access, None),
            Err(denial) => (Access::Denied { reason: denial.reason().into() }, Some(denial.kind())),
        };
        Ok(Answer { reply: AuthReply::Accepted { bearer, access }, reason })
    }

    /// Access to an account, or to what a user owns there.
    fn access_to(&self, account: &Account, own: Option<Own>) -> Access {
        let realm_since_ms =
            account.realm.as_ref().and_then(|realm| self.realms.since_ms(realm, &account.id));
        let (account_id, realm) = (account.id.clone(), account.realm.clone());
        match own {
            None => Access::Account { account_id, realm, realm_since_ms },
            Some(own) => Access::Own { account_id, realm, realm_since_ms, own },
        }
    }
}

#[cfg(test)]
mod tests;
