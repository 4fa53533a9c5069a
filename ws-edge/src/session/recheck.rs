//! Asking auth-svc again whether a session may still have what it has.

use std::sync::Arc;

use blackhole_common::{
    clock,
    wire::{Access, AuthReply, Bearer},
};

use crate::{
    access::binding,
    delivery::dispatcher::SubscribeRequest,
    edge::Edge,
    limits::accounts::AccountSession,
    protocol::{close::Close, revoked::Revoked},
    session::{
        authorize::{denied, refused},
        confirm::confirmed,
        state::State,
    },
};

/// What a session has lost.
#[derive(Debug, Default)]
pub(super) struct Loss {
    /// Its bindings that have ended.
    pub(super) revoked: Vec<Revoked>,
    /// Why it is closed, if it is.
    pub(super) close: Option<Close>,
}

/// Asks auth-svc for the accounts of all bindings, and ends those that are no longer granted.
///
/// A binding whose account has another realm goes on with that one. While auth-svc cannot be asked, everything goes on for
/// `ws.grant_lifetime`.
pub(super) async fn recheck(edge: &Arc<Edge>, state: &mut State) -> Loss {
    // `ws.on_token_expiry` decides about a token that has expired.
    let Some(identity) = state.identity.clone().filter(|identity| clock::now() < identity.expires) else {
        return Loss::default();
    };
    let mut accounts = state.accounts();
    if accounts.is_empty() {
        accounts.insert(Arc::clone(identity.session.account()));
    }
    let mut loss = Loss::default();
    let mut is_confirmed = true;
    for account in accounts {
        let Ok(reply) = edge.authorizer.check(&identity.token, Some(&account)).await else {
            is_confirmed = false;
            continue;
        };
        match &*reply {
            AuthReply::Refused { reason } => {
                loss.revoked.extend(state.end_all(&refused(reason)));
                loss.close = Some(Close::Revoked);
                break;
            }
            AuthReply::Accepted { access: Access::Denied { .. }, .. } => {
                loss.revoked.extend(state.end(&account, |_| Some(denied(Some(&account)))));
            }
            AuthReply::Accepted { bearer, access } => {
                if state.grant_of(&account).is_none_or(|earlier| *earlier != *reply) {
                    loss.revoked
                        .extend(renew(edge, state, &identity.session, &account, bearer, access).await);
                    state.remember(Some(account.to_string()), Arc::clone(&reply));
                }
            }
        }
    }
    if is_confirmed {
        state.confirmed_at = clock::now();
    } else if clock::now() - state.confirmed_at >= edge.config.grant_lifetime && loss.close.is_none() {
        loss.revoked.extend(state.end_all("the authentication service is not available"));
        loss.close = Some(Close::Unconfirmed);
    }
    state.note_accounts();
    state.update_registry();
    edge.metrics.bindings_revoked.inc_by(loss.revoked.len() as u64);
    loss
}

/// Subscribes the bindings of an account anew, with what is granted now. Returns those that cannot be.
async fn renew(
    edge: &Arc<Edge>,
    state: &mut State,
    session: &Arc<AccountSession>,
    account: &str,
    bearer: &Bearer,
    access: &Access,
) -> Vec<Revoked> {
    let resolve = |text: &str| {
        let parsed = binding::parse(&edge.catalogue, &edge.families, text, bearer)?;
        parsed.resolve(&edge.event_root, access)
    };
    let revoked = state.end(account, |text| resolve(text).err().map(|error| error.to_string()));
    let (mut texts, mut requests, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
    for text in state.texts_of(account) {
        let Ok(resolved) = resolve(&text) else { continue };
        let Some(membership) = state.take_membership(account, &text) else { continue };
        let (template, subjects) = (membership.template().only(resolved.only), resolved.subjects);
        let template = Arc::new(template);
        // An account at its limit keeps what it has.
        let share = session.share(&subjects, membership.bytes()).unwrap_or_default();
        requests.push(SubscribeRequest { template, subjects, since: None, realms_after: 0, share });
        replaced.push(membership);
        texts.push(text.to_string());
    }
    let joined = edge.dispatcher.join(&state.outbox, requests, replaced);
    state.bind(account, texts, joined.memberships);
    // A subject that is not confirmed in time is subscribed again when the connection is back.
    let _ = confirmed(edge, joined.confirmation).await;
    revoked
}
