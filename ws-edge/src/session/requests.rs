//! Answering requests. The steps of every one, the first failure wins: rate limit, authenticate, validate,
//! authorize, limits, run, reply. A request is done as a whole or not at all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::wire::{Access, AuthReply};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    actions,
    state::{Bearing, Bound, State},
};
use crate::{
    Edge,
    authorizer::Token,
    binding::{self, Asked, BindingError},
    fanout::{Membership, Wish},
    frame::Shape,
    reply::{Data, Reply, generated_id},
    request::{About, Action, Request},
};

/// A frame over this is not read for its request id when the session is over its rate.
const SMALL_FRAME_BYTES: usize = 4096;
/// Accounts whose grants a session remembers for when auth-svc is away.
const MOST_REMEMBERED: usize = 32;

/// Answers one frame.
pub(super) async fn answer(edge: Arc<Edge>, mut state: Box<State>, frame: Utf8Bytes) -> (Box<State>, Reply) {
    let reply = reply_to(&edge, &mut state, &frame).await;
    state.list();
    (state, reply)
}

async fn reply_to(edge: &Arc<Edge>, state: &mut State, frame: &str) -> Reply {
    if !state.rate.take(Instant::now()) {
        let id = if frame.len() <= SMALL_FRAME_BYTES { Request::id_of(frame) } else { None };
        let error = format!("rate limiting threshold hit for {}!", state.address);
        return Reply::error(id.unwrap_or_else(generated_id), error);
    }
    let request = match Request::read(frame) {
        Ok(request) => request,
        Err(error) => return Reply::error(Request::id_of(frame).unwrap_or_else(generated_id), error),
    };
    let asked_id = request.request_id.clone();
    let id = asked_id.clone().unwrap_or_else(generated_id);
    match run(edge, state, request, asked_id.as_ref()).await {
        Ok(data) => Reply::success(id, data),
        Err(error) => Reply::error(id, error),
    }
}

async fn run(
    edge: &Arc<Edge>,
    state: &mut State,
    request: Request,
    id: Option<&Value>,
) -> Result<Data, String> {
    authenticate(edge, state, &request).await?;
    let data = match request.action().map_err(|error| error.to_string())? {
        Action::Ping => json!({ "response": "pong" }),
        Action::Subscribe { account_id, bindings, about } => {
            subscribe(edge, state, account_id, bindings, about, id).await?
        }
        Action::Unsubscribe { account_id, bindings } => unsubscribe(state, account_id, bindings),
        Action::UnsubscribeAll => unsubscribed(std::mem::take(&mut state.bound), state),
        Action::Api(call) => return actions::api(edge, state, call, id).await,
        Action::Send(message) => actions::send(edge, state, message, id).await?,
    };
    Ok(data.into())
}

/// A session belongs to the account of its first token. A later token of the same account renews it; another
/// account's changes nothing, as with Blackhole.
async fn authenticate(edge: &Edge, state: &mut State, request: &Request) -> Result<(), String> {
    let token = match (&request.token, &state.bearing) {
        (None, None) => return Err("authentication token required".to_owned()),
        (None, Some(_)) => return Ok(()),
        (Some(token), Some(bearing)) if *token == bearing.token => return Ok(()),
        (Some(token), _) => token,
    };
    match edge.authorizer.check(token, request.account_id()).await {
        Ok(reply) => match &*reply {
            AuthReply::Refused { reason } => Err(refused(reason)),
            AuthReply::Accepted { bearer, .. } => {
                let renews = state.bearing.as_ref().is_none_or(|own| {
                    own.bearer.account_id == bearer.account_id && own.bearer.expires_at < bearer.expires_at
                });
                if renews {
                    state.bearing = Some(Bearing::new(token.clone(), bearer.clone()));
                }
                Ok(())
            }
        },
        // A session that is known goes on.
        Err(_) if state.bearing.is_some() => Ok(()),
        Err(unavailable) => Err(unavailable.to_string()),
    }
}

pub(super) fn refused(reason: &str) -> String {
    format!("failed to authenticate token : {reason}")
}

async fn subscribe(
    edge: &Arc<Edge>,
    state: &mut State,
    account_id: Option<String>,
    bindings: Vec<String>,
    about: About,
    request_id: Option<&Value>,
) -> Result<Value, String> {
    let Some(Bearing { token, bearer, .. }) = state.bearing.clone() else {
        return Err("authentication token required".to_owned());
    };
    if bindings.len() > edge.config.max_bindings {
        return Err(too_many(edge));
    }
    let asked: Vec<Asked<'_>> = bindings
        .iter()
        .map(|binding| binding::parse(&edge.catalogue, &edge.families, binding, bearer.superduper_admin))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let access = authorize(edge, state, &token, account_id).await?;
    let account = match &access {
        Access::Account { account_id, .. } => account_id.clone(),
        _ => "*".to_owned(),
    };

    let (mut fresh, mut changed) = (Vec::new(), Vec::new());
    for (binding, asked) in bindings.iter().zip(&asked) {
        let wish =
            wish(edge, state, binding, asked, &access, request_id).map_err(|error| error.to_string())?;
        match state.bound.iter().find(|bound| bound.account_id == account && bound.binding == *binding) {
            None => fresh.push((binding, wish)),
            Some(bound) if *bound.membership.shape() != *wish.shape => changed.push((binding, wish)),
            Some(_) => {}
        }
    }
    if state.bound.len() + fresh.len() > edge.config.max_bindings {
        return Err(too_many(edge));
    }

    let (names, wishes): (Vec<_>, Vec<_>) = fresh.into_iter().unzip();
    let memberships = join(edge, state, wishes).await?;
    for (binding, membership) in names.into_iter().zip(memberships) {
        state.bound.push(Bound { account_id: account.clone(), binding: binding.clone(), membership });
    }
    for (binding, wish) in changed {
        replace(edge, state, &account, binding, wish);
    }
    state.listed.describe(about);
    Ok(json!({ "subscribed": bindings, "subscriptions": state.subscriptions() }))
}

fn wish(
    edge: &Edge,
    state: &State,
    binding: &str,
    asked: &Asked<'_>,
    access: &Access,
    request_id: Option<&Value>,
) -> Result<Wish, BindingError> {
    let resolved = asked.resolve(&edge.event_root, access)?;
    let shape = Shape::new(state.view, request_id, binding, &resolved.subscription_key, resolved.shown_key);
    Ok(Wish { shape: Arc::new(shape.of(asked.family())), subjects: resolved.subjects })
}

/// Joins, and waits until the NATS server has confirmed all subjects. Without that, nothing remains joined.
async fn join(edge: &Arc<Edge>, state: &State, wishes: Vec<Wish>) -> Result<Vec<Membership>, String> {
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let (memberships, confirmation) = edge.fanout.join(state.number, &state.outbox, wishes, Vec::new());
    let confirmed = match confirmation {
        None => true,
        Some(confirmation) => {
            let timeout: Duration = edge.config.request_timeout;
            matches!(tokio::time::timeout(timeout, confirmation).await, Ok(Ok(())))
        }
    };
    if confirmed {
        Ok(memberships)
    } else {
        Err("events are not available at the moment, try again".to_owned())
    }
}

/// The same binding, asked for by another request: its frames carry the newer request's id from now on. The
/// server has its subjects already.
fn replace(edge: &Arc<Edge>, state: &mut State, account: &str, binding: &str, wish: Wish) {
    let same = |bound: &Bound| bound.account_id == account && bound.binding == binding;
    let Some(index) = state.bound.iter().position(same) else { return };
    let old = state.bound.remove(index);
    let (memberships, _) = edge.fanout.join(state.number, &state.outbox, vec![wish], vec![old.membership]);
    for membership in memberships {
        let bound = Bound { account_id: account.to_owned(), binding: binding.to_owned(), membership };
        state.bound.insert(index, bound);
    }
}

pub(super) async fn authorize(
    edge: &Edge,
    state: &mut State,
    token: &Token,
    account_id: Option<String>,
) -> Result<Access, String> {
    match edge.authorizer.check(token, account_id.as_deref()).await {
        Ok(reply) => match &*reply {
            AuthReply::Refused { reason } => Err(refused(reason)),
            AuthReply::Accepted { access: Access::Denied { .. }, .. } => Err(match account_id.as_deref() {
                Some("*") => "unauthorized wildcard account id".to_owned(),
                _ => "unauthorized account id".to_owned(),
            }),
            AuthReply::Accepted { access, .. } => {
                if state.granted.len() >= MOST_REMEMBERED {
                    state.granted.clear();
                }
                state.granted.insert(account_id, access.clone());
                Ok(access.clone())
            }
        },
        Err(unavailable) => state.granted.get(&account_id).cloned().ok_or_else(|| unavailable.to_string()),
    }
}

fn too_many(edge: &Edge) -> String {
    format!("too many bindings : at most {} per session", edge.config.max_bindings)
}

/// What is not bound is a success: an error here once sent Monster UI into an endless loop.
fn unsubscribe(state: &mut State, account_id: Option<String>, bindings: Option<Vec<String>>) -> Value {
    let own = state.bearing.as_ref().map(|bearing| bearing.bearer.account_id.clone());
    let account = account_id.or(own).unwrap_or_default();
    let goes = |bound: &Bound| {
        bound.account_id == account
            && bindings.as_ref().is_none_or(|bindings| bindings.contains(&bound.binding))
    };
    let (gone, kept) = std::mem::take(&mut state.bound).into_iter().partition(goes);
    state.bound = kept;
    unsubscribed(gone, state)
}

fn unsubscribed(gone: Vec<Bound>, state: &State) -> Value {
    let gone: Vec<&str> = gone.iter().map(|bound| bound.binding.as_str()).collect();
    let left = state.subscriptions();
    json!({ "unsubscribed": gone, "subscribed": left, "subscriptions": left })
}
