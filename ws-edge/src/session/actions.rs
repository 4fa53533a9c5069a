//! The actions of KAZOO 5 that reach beyond the edge.

use std::time::Instant;

use blackhole_common::wire::AuthReply;
use serde_json::Value;

use super::{
    requests::refused,
    state::{Bearing, State},
};
use crate::{
    Edge,
    crossbar::{Call, Caller, CrossbarError},
    reply::Data,
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
