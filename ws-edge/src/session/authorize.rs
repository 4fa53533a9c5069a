//! Authentication of sessions, and their authorization for accounts.

use std::{net::IpAddr, sync::Arc};

use blackhole_common::{
    clock,
    wire::{Access, AuthReply},
};
use thiserror::Error;

use crate::{
    access::authorizer::Unavailable,
    edge::Edge,
    limits::{accounts::AccountSession, client_network::ClientNetwork},
    protocol::{close::Close, request::Request, token::Token},
    session::state::{Identity, State},
};

/// A session of which this many tokens were refused is closed. The same one again is no guess: Monster UI sends a token that
/// has expired once for each of its bindings, and logs in again when that is refused.
const MAX_REFUSED_TOKENS: u32 = 5;

/// Authenticates with the request's token; without one the session must be authenticated already.
///
/// A session belongs to the account of its first token. A later token of the same account renews it; a token of
/// another account changes nothing, as in KAZOO's Blackhole.
pub(super) async fn authenticate(edge: &Edge, state: &mut State, request: &Request) -> Result<(), String> {
    let token = match (&request.token, &state.identity) {
        (None, None) => return Err("authentication token required".to_owned()),
        (None, Some(_)) => return Ok(()),
        (Some(token), Some(identity)) if *token == identity.token => return Ok(()),
        (Some(token), _) => token,
    };
    match check_new(edge, state.address, token, request.account_id()).await {
        Ok(reply) => match &*reply {
            AuthReply::Refused { reason } => {
                if state.last_refused.replace(token.clone()).as_ref() != Some(token) {
                    state.refused_tokens += 1;
                }
                if state.refused_tokens >= MAX_REFUSED_TOKENS {
                    state.outbox.close(Close::TokensRefused);
                }
                Err(refused(reason))
            }
            AuthReply::Accepted { bearer, .. } => {
                let renews = state.identity.as_ref().is_none_or(|own| {
                    own.bearer.account_id == bearer.account_id && own.bearer.expires_at < bearer.expires_at
                });
                state.confirmed_at = clock::now();
                if renews {
                    let session = match &state.identity {
                        Some(own) => Arc::clone(&own.session),
                        None => enter(edge, &bearer.account_id)?,
                    };
                    state.outbox.set_account(session.account());
                    state.identity = Some(Identity::new(token.clone(), bearer.clone(), session));
                }
                Ok(())
            }
        },
        Err(NotChecked::TooMany) => {
            Err(edge.metrics.limited("refused_tokens", NotChecked::TooMany.to_string()))
        }
        // While auth-svc is unavailable, an authenticated session continues.
        Err(NotChecked::Unavailable(_)) if state.identity.is_some() => Ok(()),
        Err(unavailable) => Err(unavailable.to_string()),
    }
}

/// Why a token was not checked.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum NotChecked {
    /// Too many tokens from the client's address were refused.
    #[error("too many tokens from your address were refused, try again later")]
    TooMany,
    /// auth-svc did not reply.
    #[error(transparent)]
    Unavailable(Unavailable),
}

/// auth-svc's decision on a token that a client shows. If too many from its address were refused, only a token is accepted
/// that was shortly before.
pub(crate) async fn check_new(
    edge: &Edge,
    address: IpAddr,
    token: &Token,
    account_id: Option<&str>,
) -> Result<Arc<AuthReply>, NotChecked> {
    let client = ClientNetwork::of(address);
    let is_exhausted = || edge.limits.refusals.lock().exhausted_until(&client, clock::now()).is_some();
    if is_exhausted() && !edge.authorizer.has_accepted(token, account_id).await {
        return Err(NotChecked::TooMany);
    }
    let reply = edge.authorizer.check(token, account_id).await.map_err(NotChecked::Unavailable)?;
    if let AuthReply::Refused { .. } = *reply {
        edge.limits.refusals.lock().charge(&client, 1.0, clock::now());
    }
    Ok(reply)
}

/// A session of this account, if it may have another one.
fn enter(edge: &Edge, account_id: &str) -> Result<Arc<AccountSession>, String> {
    edge.limits
        .accounts
        .enter(account_id)
        .map_err(|exceeded| edge.metrics.limited(exceeded.label(), exceeded.to_string()))
}

/// What the token may see of the account (`None`: its own; `*`: all). While auth-svc is unavailable, its earlier grants
/// to this session apply.
pub(super) async fn authorize(
    edge: &Edge,
    state: &mut State,
    token: &Token,
    account_id: Option<String>,
) -> Result<Access, String> {
    let (reply, is_fresh) = match edge.authorizer.check(token, account_id.as_deref()).await {
        Ok(reply) => (reply, true),
        Err(unavailable) => (state.granted(&account_id).ok_or_else(|| unavailable.to_string())?, false),
    };
    match &*reply {
        AuthReply::Refused { reason } => Err(refused(reason)),
        AuthReply::Accepted { access: Access::Denied { .. }, .. } => Err(denied(account_id.as_deref())),
        AuthReply::Accepted { access, .. } => {
            let access = access.clone();
            if is_fresh {
                state.remember(account_id, reply);
            }
            Ok(access)
        }
    }
}

/// The session's identity, if its token is still valid: with `ws.on_token_expiry` `keep` a session outlives its token,
/// and the token's key may have been removed. If auth-svc is unavailable the token is accepted, since KAZOO checks it.
pub(super) async fn current_identity<'a>(edge: &Edge, state: &'a State) -> Result<&'a Identity, String> {
    let identity = state.identity.as_ref().ok_or("authentication token required")?;
    if identity.expires <= clock::now() {
        return Err(refused("token is expired"));
    }
    match edge.authorizer.check(&identity.token, None).await {
        Ok(reply) => match &*reply {
            AuthReply::Refused { reason } => Err(refused(reason)),
            AuthReply::Accepted { .. } => Ok(identity),
        },
        Err(_) => Ok(identity),
    }
}

/// The text for an account that the token may not see.
pub(super) fn denied(account_id: Option<&str>) -> String {
    match account_id {
        Some("*") => "unauthorized wildcard account id".to_owned(),
        _ => "unauthorized account id".to_owned(),
    }
}

/// The text for a token that is not accepted.
pub(super) fn refused(reason: &str) -> String {
    format!("failed to authenticate token : {reason}")
}
