//! Clients' requests.

use ws_edge::{
    kazoo::targeted::message::{Kind, Message},
    protocol::request::{Action, Request, RequestError},
};

use crate::json::Json;

/// What is read is what any other parser reads. The token is in no error and no debug output.
pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let tree = Json::parse(input);
    let request = match Request::read(text) {
        Ok(request) => request,
        Err(error) => {
            check_secrecy(text, tree.as_ref(), &error);
            return false;
        }
    };
    let tree = tree.unwrap();
    assert_eq!(request.token.is_some(), tree.text("auth_token").is_some_and(|token| !token.is_empty()));
    assert!(request.request_id.is_none() || request.request_id == Request::id_of(text));
    if tree.get("data").is_some_and(|data| *data != Json::Null) {
        assert_eq!(request.account_id(), tree.text("data.account_id"));
    }
    assert!(request.token.is_none() || format!("{:?}", request.token) == "Some([token])");
    match request.action() {
        Err(error) => {
            check_secrecy(text, Some(&tree), &error);
            false
        }
        Ok(Action::Subscribe(subscribe)) => {
            assert!(!subscribe.bindings.is_empty() && subscribe.bindings.iter().all(|text| !text.is_empty()));
            assert!(subscribe.account_id.is_none_or(|id| (1..=256).contains(&id.len())));
            true
        }
        Ok(Action::RelayPublish(data)) => targeted(Kind::Relay, data),
        Ok(Action::DialogPush(data)) => targeted(Kind::Dialog, data),
        Ok(_) => true,
    }
}

fn targeted(kind: Kind, data: serde_json::Map<String, serde_json::Value>) -> bool {
    Message::read(kind, data).is_ok_and(|message| message.account_id.as_deref() != Some("*"))
}

/// An error says the same if the token is another one.
fn check_secrecy(text: &str, tree: Option<&Json>, error: &RequestError) {
    let token = tree.and_then(|tree| tree.text("auth_token")).unwrap_or_default();
    // What is escaped, or stands in several places, cannot be replaced so simply.
    if token.is_empty() || text.contains('\\') || text.matches(token).count() > 1 {
        return;
    }
    let other = text.replace(token, &"z".repeat(token.len()));
    let other = Request::read(&other).and_then(Request::action);
    assert_eq!(other.as_ref().err(), Some(error));
}
