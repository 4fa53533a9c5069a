//! Subscribing and unsubscribing.

use std::sync::Arc;

use blackhole_common::wire::Access;
use serde_json::{Map, Value, json};

use crate::{
    access::binding::{self, BindingError, ParsedBinding, ResolvedBinding},
    delivery::{dispatcher::SubscribeRequest, frame::template::FrameTemplate},
    edge::Edge,
    limits::accounts::{AccountSession, Share},
    protocol::{
        cursor::{Cursor, EventPosition, Rank},
        event_stream::Framing,
        request::Subscribe,
        view::View,
    },
    session::{
        authorize::authorize,
        confirm::confirmed,
        kept_events::Present,
        present,
        resume::{self, ResumeFrom},
        state::{Binding, Identity, State},
    },
};

/// What a binding takes besides its texts, as measured on a running edge.
const BYTES_PER_BINDING: usize = 450;
/// What a subject takes besides its text, as measured.
const BYTES_PER_SUBJECT: usize = 400;

/// Subscribes to all bindings of a request, or to none of them.
pub(super) async fn subscribe(
    edge: &Arc<Edge>,
    state: &mut State,
    subscribe: Subscribe,
    resume_from: Option<ResumeFrom>,
    request_id: Option<&Value>,
) -> Result<Value, String> {
    let Subscribe { account_id, bindings, client, state: wants_state, .. } = subscribe;
    let Some(Identity { token, bearer, session, .. }) = state.identity.clone() else {
        return Err("authentication token required".to_owned());
    };
    if bindings.len() > edge.config.max_bindings {
        return Err(too_many(edge));
    }
    let parsed: Vec<ParsedBinding<'_>> = bindings
        .iter()
        .map(|binding| binding::parse(&edge.catalogue, &edge.families, binding, &bearer))
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let access = authorize(edge, state, &token, account_id).await?;
    let account = access.account_id().unwrap_or("*").to_owned();

    let mut requests: Vec<SubscribeRequest> = bindings
        .iter()
        .zip(&parsed)
        .map(|(binding, parsed)| {
            request(&edge.event_root, (state.view, state.framing), binding, parsed, &access, request_id)
        })
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let is_new = |binding: &&String| state.index_of(&account, binding).is_none();
    if state.bindings.len() + bindings.iter().filter(is_new).count() > edge.config.max_bindings {
        return Err(too_many(edge));
    }
    share(edge, state, &session, &account, &bindings, &mut requests)?;

    let mut data = Map::from_iter([("subscribed".to_owned(), json!(bindings))]);
    let begin = present::begin(edge, wants_state, resume_from, &parsed, &requests).await;
    match begin.from {
        None => join(edge, state, &account, bindings, requests).await?,
        Some(from) => {
            let requests = resume::without_others_past(edge, &access, requests).await?;
            let present = Present::new(&requests, state.framing, request_id, begin.snapshot);
            let recovered = resume::join(edge, state, &account, bindings, requests, from).await?;
            if resume_from.is_some() {
                let reason = begin.lost.or(recovered.err());
                data.insert("recovered".into(), json!(reason.is_none()));
                reason.map(|reason| data.insert("reason".into(), json!(reason)));
            }
            if wants_state && begin.no_state.is_none() && recovered.is_ok() {
                state.present = Some(Box::new(present));
            }
        }
    }
    if wants_state {
        data.insert("state".into(), json!(state.present.is_some()));
        if state.present.is_none() {
            data.insert("state_reason".into(), json!(begin.no_state.unwrap_or(present::OUTDATED)));
        }
    }
    state.entry.describe(client);
    data.insert("subscriptions".into(), json!(state.binding_texts()));
    Ok(with_cursor(edge, state, data))
}

/// Adds the cursor up to which the session has received everything, if it is known. A client needs it to resume before
/// its first event, or after a silence longer than the history.
pub(super) fn with_cursor(edge: &Edge, state: &State, mut data: Map<String, Value>) -> Value {
    if let Some(cursor) = cursor(edge, state) {
        data.insert("cursor".into(), json!(String::from_utf8_lossy(&cursor.to_text())));
    }
    Value::Object(data)
}

/// The cursor up to which the session has received everything, if it is known.
pub(super) fn cursor(edge: &Edge, state: &State) -> Option<Cursor> {
    // Read the stream's id before the position: otherwise a position of the old stream could get the id of a new one.
    let stream = edge.stream.borrow().as_ref().map(|info| info.id)?;
    let sequence = edge.dispatcher.position_of(&state.outbox).filter(|_| !state.bindings.is_empty())?;
    Some(Cursor { position: EventPosition { stream, sequence }, rank: Rank::LAST })
}

/// What the dispatcher is asked for a binding, for a session whose frames have this form.
pub(crate) fn request(
    event_root: &str,
    (view, framing): (View, Framing),
    binding: &str,
    parsed: &ParsedBinding<'_>,
    access: &Access,
    request_id: Option<&Value>,
) -> Result<SubscribeRequest, BindingError> {
    let resolved = parsed.resolve(event_root, access)?;
    let account = access.account_id().unwrap_or("*");
    let ResolvedBinding { subjects, subscription_key, shown_key, only } = resolved;
    let template = FrameTemplate::new(view, request_id, account, binding, &subscription_key, shown_key);
    let template = Arc::new(template.framed(framing).of(parsed.family()).only(only));
    Ok(SubscribeRequest { template, subjects, since: None, realms_after: 0, share: Share::default() })
}

/// Gives the requests their shares of what the session and its account may take.
fn share(
    edge: &Edge,
    state: &State,
    session: &Arc<AccountSession>,
    account: &str,
    bindings: &[String],
    requests: &mut [SubscribeRequest],
) -> Result<(), String> {
    let sizes: Vec<usize> =
        bindings.iter().zip(&*requests).map(|(text, request)| bytes(text, request)).collect();
    let replaced: usize =
        bindings.iter().filter_map(|binding| state.find(account, binding)).map(Binding::bytes).sum();
    let all = state.binding_bytes().saturating_sub(replaced).saturating_add(sizes.iter().sum());
    let max = edge.config.max_binding_bytes.as_u64();
    if all as u64 > max {
        let error = format!("too many bindings : they may take {max} bytes per session");
        return Err(edge.metrics.limited("binding_bytes", error));
    }
    for (request, bytes) in requests.iter_mut().zip(sizes) {
        request.share = session
            .share(&request.subjects, bytes)
            .map_err(|exceeded| edge.metrics.limited(exceeded.label(), exceeded.to_string()))?;
    }
    Ok(())
}

/// About how much memory a binding takes: its texts, and what the edge keeps for each binding and subject.
/// A subject that other sessions have too is kept once, but counts for each of them: they may leave first.
fn bytes(binding: &str, request: &SubscribeRequest) -> usize {
    let subjects: usize = request.subjects.iter().map(|subject| BYTES_PER_SUBJECT + subject.len()).sum();
    BYTES_PER_BINDING + binding.len() + request.template.bytes() + subjects
}

/// Subscribes to live events, and waits until the NATS server has confirmed all subjects. A failure undoes it.
///
/// Existing bindings continue. If the request id differs, their frames carry the new one from now on.
async fn join(
    edge: &Arc<Edge>,
    state: &mut State,
    account: &str,
    bindings: Vec<String>,
    requests: Vec<SubscribeRequest>,
) -> Result<(), String> {
    let (mut names, mut new, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    for (binding, request) in bindings.into_iter().zip(requests) {
        match state.find(account, &binding) {
            None => {
                names.push(binding);
                new.push(request);
            }
            Some(own) if own.membership.as_ref().is_some_and(|own| **own.template() == *request.template) => {
            }
            Some(_) => changed.push((binding, request)),
        }
    }
    if !new.is_empty() {
        let joined = edge.dispatcher.join(&state.outbox, new, Vec::new());
        confirmed(edge, joined.confirmation).await?;
        state.bind(account, names, joined.memberships);
    }
    for (binding, request) in changed {
        // The server already has its subjects.
        let replaced = state.take_membership(account, &binding).into_iter().collect();
        let joined = edge.dispatcher.join(&state.outbox, vec![request], replaced);
        state.bind(account, vec![binding], joined.memberships);
    }
    Ok(())
}

fn too_many(edge: &Edge) -> String {
    let error = format!("too many bindings : at most {} per session", edge.config.max_bindings);
    edge.metrics.limited("bindings", error)
}

/// Unsubscribing an unknown binding succeeds: an error here once sent Monster UI into an endless loop.
pub(super) fn unsubscribe(
    state: &mut State,
    account_id: Option<String>,
    bindings: Option<Vec<String>>,
) -> Value {
    let own = state.identity.as_ref().map(|identity| identity.bearer.account_id.clone());
    let account = account_id.or(own).unwrap_or_default();
    let is_affected = |own: &Binding| {
        *own.account_id == *account
            && bindings.as_ref().is_none_or(|bindings| bindings.iter().any(|text| **text == *own.text))
    };
    let (removed, kept) = std::mem::take(&mut state.bindings).into_iter().partition(is_affected);
    state.bindings = kept;
    unsubscribed(removed, state)
}

/// Drops all bindings of the session.
pub(super) fn unsubscribe_all(state: &mut State) -> Value {
    unsubscribed(std::mem::take(&mut state.bindings), state)
}

fn unsubscribed(removed: Vec<Binding>, state: &State) -> Value {
    let removed: Vec<&str> = removed.iter().map(|binding| &*binding.text).collect();
    let left = state.binding_texts();
    json!({ "unsubscribed": removed, "subscribed": left, "subscriptions": left })
}
