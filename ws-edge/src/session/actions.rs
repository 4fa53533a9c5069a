//! The actions that are forwarded to KAZOO: `api`, `relay.publish`, `dialog.push`.

use serde_json::{Value, json};

use crate::{
    edge::Edge,
    kazoo::{
        crossbar::{Caller, CrossbarError, call::Call},
        targeted::message::{Message, Sender},
    },
    protocol::reply::{Data, generated_id},
    session::{
        authorize::{authorize, current_identity},
        state::State,
    },
};

/// `api`: replies with Crossbar's answer.
pub(super) async fn api(
    edge: &Edge,
    state: &State,
    call: Call,
    request_id: Option<&Value>,
) -> Result<Data, String> {
    let Some(crossbar) = &edge.crossbar else { return Err(CrossbarError::NotConfigured.to_string()) };
    let identity = current_identity(edge, state).await?;
    let caller = Caller { token: &identity.token, address: state.address, request_id };
    let answer = crossbar.call(call, &caller, &edge.metrics).await;
    answer.map(Data::Raw).map_err(|error| error.to_string())
}

/// `relay.publish` and `dialog.push`: sends the message, if the token may see its account.
pub(super) async fn send(
    edge: &Edge,
    state: &mut State,
    message: Message,
    request_id: Option<&Value>,
) -> Result<Value, String> {
    let token = current_identity(edge, state).await?.token.clone();
    let access = authorize(edge, state, &token, message.account_id.clone()).await?;
    let account_id = access.account_id().ok_or("unauthorized account id")?;
    let request_id = request_id.cloned().unwrap_or_else(generated_id);
    let sender = Sender { account_id, token: &token, request_id: &request_id };
    edge.targeted.send(message, &sender, &edge.metrics).await.map_err(|error| error.to_string())?;
    Ok(json!({}))
}
