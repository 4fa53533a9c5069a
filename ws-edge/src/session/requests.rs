//! Answering requests. Each goes through the same steps, and the first failure ends it: rate limit, read, authenticate,
//! validate, authorize, limits, run, reply. A request takes effect as a whole or not at all.

use std::sync::Arc;

use blackhole_common::clock;
use serde_json::{Map, Value, json};
use tungstenite::Utf8Bytes;

use crate::{
    edge::Edge,
    kazoo::{
        crossbar::call::Call,
        targeted::message::{Kind, Message},
    },
    protocol::{
        reply::{Data, Reply, generated_id},
        request::{Action, Request},
    },
    session::{actions, authorize::authenticate, resume, state::State, subscribe},
};

/// When a session exceeds its rate, larger frames are not parsed for their request id.
const SMALL_FRAME_BYTES: usize = 4096;

/// Answers one frame.
pub(super) async fn answer(edge: Arc<Edge>, mut state: Box<State>, frame: Utf8Bytes) -> (Box<State>, Reply) {
    let reply = reply_to(&edge, &mut state, &frame).await;
    state.update_registry();
    (state, reply)
}

async fn reply_to(edge: &Arc<Edge>, state: &mut State, frame: &str) -> Reply {
    if !state.rate.try_take(clock::now()) {
        let id = if frame.len() <= SMALL_FRAME_BYTES { Request::id_of(frame) } else { None };
        let error = format!("rate limiting threshold hit for {}!", state.address);
        let error = edge.metrics.limited("rate", error);
        return Reply::error(id.unwrap_or_else(generated_id), error);
    }
    let request = match Request::read(frame) {
        Ok(request) => request,
        Err(error) => return Reply::error(Request::id_of(frame).unwrap_or_else(generated_id), error),
    };
    let given_id = request.request_id.clone();
    let id = given_id.clone().unwrap_or_else(generated_id);
    match run(edge, state, request, given_id.as_ref()).await {
        Ok(data) => Reply::success(id, data),
        Err(error) => Reply::error(id, error),
    }
}

/// Runs a request. `request_id` is the client's own, if it gave one.
async fn run(
    edge: &Arc<Edge>,
    state: &mut State,
    request: Request,
    request_id: Option<&Value>,
) -> Result<Data, String> {
    authenticate(edge, state, &request).await?;
    let data = match request.action().map_err(|error| error.to_string())? {
        Action::Ping => {
            let pong = Map::from_iter([("response".to_owned(), json!("pong"))]);
            subscribe::with_cursor(edge, state, pong)
        }
        Action::Subscribe(subscribe) => {
            let resume_from = match subscribe.since {
                Some(since) => Some(resume::find(edge, since).await?),
                None => None,
            };
            subscribe::subscribe(edge, state, subscribe, resume_from, request_id).await?
        }
        Action::Unsubscribe { account_id, bindings } => subscribe::unsubscribe(state, account_id, bindings),
        Action::UnsubscribeAll => subscribe::unsubscribe_all(state),
        Action::Api(data) => {
            let call = Call::read(data).map_err(|error| error.to_string())?;
            return actions::api(edge, state, call, request_id).await;
        }
        Action::RelayPublish(data) => send(edge, state, Kind::Relay, data, request_id).await?,
        Action::DialogPush(data) => send(edge, state, Kind::Dialog, data, request_id).await?,
    };
    Ok(data.into())
}

async fn send(
    edge: &Edge,
    state: &mut State,
    kind: Kind,
    data: Map<String, Value>,
    request_id: Option<&Value>,
) -> Result<Value, String> {
    if !edge.families.is_running(kind.family()) {
        return Err("the operator has stopped this action".to_owned());
    }
    let message = Message::read(kind, data).map_err(|error| error.to_string())?;
    actions::send(edge, state, message, request_id).await
}
