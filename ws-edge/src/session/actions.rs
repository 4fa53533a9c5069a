//! The actions of KAZOO 5 that reach beyond the edge.

use std::time::Instant;

use blackhole_common::wire::{Access, AuthReply};
use serde_json::{Value, json};

use super::{
    requests::{authorize, refused},
    state::{Bearing, State},
};
use crate::{
    Edge,
    crossbar::{Call, Caller, CrossbarError},
    reply::{Data, generated_id},
    targeted::{Message, Speaker},
};

/// `api`: what Crossbar answers.
pub(super) async fn api(
    edge: &Edge,
    state: &State,
    call: Call,
    request_id: Option<&Value>,
) -> Result<Data, String> {
    let Some(crossbar) = &edge.crossbar else { return Err(CrossbarError::Off.to_string()) };
    let bearing = good(edge, state).await?;
    let caller = Caller { token: &bearing.token, address: state.address, request_id };
    let answer = crossbar.call(call, &caller, &edge.metrics).await;
    answer.map(Data::Passed).map_err(|error| error.to_string())
}

/// `relay.publish` and `dialog.push`, for an account that the token may see.
pub(super) async fn send(
    edge: &Edge,
    state: &mut State,
    message: Message,
    request_id: Option<&Value>,
) -> Result<Value, String> {
    let token = good(edge, state).await?.token.clone();
    let access = authorize(edge, state, &token, message.account_id.clone()).await?;
    let Access::Account { account_id, .. } = access else { return Err("unauthorized account id".to_owned()) };
    let request_id = request_id.cloned().unwrap_or_else(generated_id);
    let speaker = Speaker { account_id: &account_id, token: &token, request_id: &request_id };
    edge.targeted.send(message, &speaker, &edge.metrics).await.map_err(|unsent| unsent.to_string())?;
    Ok(json!({}))
}

/// Who the session is, if its token is still good: with `ws.on_token_expiry` `keep` a session outlives its token, and a
/// key may have been removed since. Where auth-svc is away, KAZOO looks at the token itself.
async fn good<'a>(edge: &Edge, state: &'a State) -> Result<&'a Bearing, String> {
    let bearing = state.bearing.as_ref().ok_or("authentication token required")?;
    if bearing.expires <= Instant::now() {
        return Err(refused("token is expired"));
    }
    match edge.authorizer.check(&bearing.token, None).await {
        Ok(reply) => match &*reply {
            AuthReply::Refused { reason } => Err(refused(reason)),
            AuthReply::Accepted { .. } => Ok(bearing),
        },
        Err(_) => Ok(bearing),
    }
}
