//! Answering requests. The steps of every one, the first failure wins: rate limit, authenticate, validate,
//! authorize, limits, run, reply. A request is done as a whole or not at all.

mod resume;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::wire::{Access, AuthReply};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;
use tungstenite::Utf8Bytes;

use self::resume::Past;
use super::{
    actions,
    state::{Bearing, Bound, State},
};
use crate::{
    Edge,
    authorizer::Token,
    binding::{self, Asked, BindingError, Resolved},
    cursor::{Cursor, Place, Rank},
    fanout::Wish,
    frame::{Shape, View},
    reply::{Data, Reply, generated_id},
    request::{About, Action, Request},
};

/// A frame over this is not read for its request id when the session is over its rate.
const SMALL_FRAME_BYTES: usize = 4096;

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
        Action::Ping => with_cursor(edge, state, Map::from_iter([("response".to_owned(), json!("pong"))])),
        Action::Subscribe { account_id, bindings, since, about } => {
            let past = match since {
                Some(since) => Some(resume::past(edge, since).await?),
                None => None,
            };
            subscribe(edge, state, Wanted { account_id, bindings, past, about }, id).await?
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

/// What a subscribe wants.
struct Wanted {
    account_id: Option<String>,
    bindings: Vec<String>,
    past: Option<Past>,
    about: About,
}

async fn subscribe(
    edge: &Arc<Edge>,
    state: &mut State,
    wanted: Wanted,
    request_id: Option<&Value>,
) -> Result<Value, String> {
    let Wanted { account_id, bindings, past, about } = wanted;
    let Some(Bearing { token, bearer, .. }) = state.bearing.clone() else {
        return Err("authentication token required".to_owned());
    };
    if bindings.len() > edge.config.max_bindings {
        return Err(too_many(edge));
    }
    let asked: Vec<Asked<'_>> = bindings
        .iter()
        .map(|binding| binding::parse(&edge.catalogue, &edge.families, binding, &bearer))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let access = authorize(edge, state, &token, account_id).await?;
    let account = match &access {
        Access::Account { account_id, .. } => account_id.clone(),
        _ => "*".to_owned(),
    };

    let wishes: Vec<Wish> = bindings
        .iter()
        .zip(&asked)
        .map(|(binding, asked)| wish(edge, state.view, binding, asked, &access, request_id))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let is_bound = |binding: &String| state.place(&account, binding).is_some();
    let fresh = bindings.iter().filter(|binding| !is_bound(binding)).count();
    if state.bound.len() + fresh > edge.config.max_bindings {
        return Err(too_many(edge));
    }

    let mut data = Map::from_iter([("subscribed".to_owned(), json!(bindings))]);
    match past {
        None => join(edge, state, &account, bindings, wishes).await?,
        Some(past) => {
            let recovered = resume::join(edge, state, &account, bindings, wishes, past).await?;
            data.insert("recovered".into(), json!(recovered.is_ok()));
            if let Err(reason) = recovered {
                data.insert("reason".into(), json!(reason));
            }
        }
    }
    state.listed.describe(about);
    data.insert("subscriptions".into(), json!(state.subscriptions()));
    Ok(with_cursor(edge, state, data))
}

/// Adds the place in the history up to which the session has been given everything, where it can be told. With it a
/// client resumes that had no event yet, or none for so long that its cursor has left the history.
fn with_cursor(edge: &Edge, state: &State, mut data: Map<String, Value>) -> Value {
    // The stream before the position: of one that was made anew in between, it would be a position of the other.
    let stream = edge.stream.borrow().as_ref().map(|info| info.identity);
    let position = edge.fanout.position_of(&state.outbox).filter(|_| !state.bound.is_empty());
    if let (Some(stream), Some(sequence)) = (stream, position) {
        let cursor = Cursor { place: Place { stream, sequence }, rank: Rank::LAST };
        data.insert("cursor".into(), json!(String::from_utf8_lossy(&cursor.to_text())));
    }
    Value::Object(data)
}

fn wish(
    edge: &Edge,
    view: View,
    binding: &str,
    asked: &Asked<'_>,
    access: &Access,
    request_id: Option<&Value>,
) -> Result<Wish, BindingError> {
    let resolved = asked.resolve(&edge.event_root, access)?;
    let account = match access {
        Access::Account { account_id, .. } => account_id,
        _ => "*",
    };
    let Resolved { subjects, subscription_key, shown_key } = resolved;
    let shape = Shape::new(view, request_id, account, binding, &subscription_key, shown_key);
    Ok(Wish { shape: Arc::new(shape.of(asked.family())), subjects, since: None })
}

/// Joins from now on, and waits until the NATS server has confirmed all subjects. Without that, nothing remains joined.
///
/// What is bound already goes on as it is; where another request asks for it, its frames carry the newer request's id
/// from now on.
async fn join(
    edge: &Arc<Edge>,
    state: &mut State,
    account: &str,
    bindings: Vec<String>,
    wishes: Vec<Wish>,
) -> Result<(), String> {
    let (mut names, mut fresh, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for (binding, wish) in bindings.into_iter().zip(wishes) {
        match state.place(account, &binding).and_then(|place| state.bound.get(place)) {
            None => {
                names.push(binding);
                fresh.push(wish);
            }
            Some(bound) if bound.membership.as_ref().is_some_and(|own| *own.shape() == *wish.shape) => {}
            Some(_) => changed.push((binding, wish)),
        }
    }
    if !fresh.is_empty() {
        let joined = edge.fanout.join(&state.outbox, fresh, Vec::new());
        confirmed(edge, joined.confirmation).await?;
        state.bind(account, names, joined.memberships);
    }
    for (binding, wish) in changed {
        // The server has its subjects already.
        let replaced = state.take_bound(account, &binding).into_iter().collect();
        let joined = edge.fanout.join(&state.outbox, vec![wish], replaced);
        state.bind(account, vec![binding], joined.memberships);
    }
    Ok(())
}

/// Waits for the server, as long as a request may.
async fn confirmed(edge: &Edge, confirmation: Option<oneshot::Receiver<()>>) -> Result<(), String> {
    let Some(confirmation) = confirmation else { return Ok(()) };
    let timeout: Duration = edge.config.request_timeout;
    match tokio::time::timeout(timeout, confirmation).await {
        Ok(Ok(())) => Ok(()),
        _ => Err("events are not available at the moment, try again".to_owned()),
    }
}

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
        AuthReply::Accepted { access: Access::Denied { .. }, .. } => Err(match account_id.as_deref() {
            Some("*") => "unauthorized wildcard account id".to_owned(),
            _ => "unauthorized account id".to_owned(),
        }),
        AuthReply::Accepted { access, .. } => {
            let access = access.clone();
            if is_fresh {
                state.remember(account_id, reply);
            }
            Ok(access)
        }
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
