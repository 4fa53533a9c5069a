//! Bodies of events.

use amqp_ingest::body::{Rejection, parse};
use ws_edge::delivery::frame::normalize::{TRANSPORT_HEADERS, normalize};

use crate::json::Json;

const PATHS: [&str; 4] = ["Account-ID", "Custom-Channel-Vars.Account-ID", "To", "A.B.C"];

/// What is read in one pass is what is in the parsed tree. The view `data` of it is that of the tree.
pub(crate) fn run(input: &[u8]) -> bool {
    let tree = Json::parse(input);
    let parsed = parse(input, &PATHS);
    let expected = match &tree {
        None => Err(Rejection::NotJson),
        Some(tree @ Json::Object(_)) => match tree.text("Event-Name") {
            Some(name) if (1..=256).contains(&name.len()) => Ok(name),
            _ => Err(Rejection::NoName),
        },
        Some(_) => Err(Rejection::NotAnObject),
    };
    match (&parsed, expected) {
        (Ok(parsed), Ok(name)) => assert_eq!(parsed.name, name),
        // An error of the type comes before those of the syntax that follow.
        (Err(Rejection::NotAnObject), Err(Rejection::NotJson)) => {}
        (parsed, expected) => assert_eq!(parsed.as_ref().err(), expected.as_ref().err(), "{tree:?}"),
    }
    if let Some(tree @ Json::Object(_)) = tree {
        if let Ok(parsed) = &parsed {
            for (path, member) in PATHS.iter().zip(&parsed.members) {
                assert_eq!(member.as_deref(), tree.text(path), "{path}");
            }
        }
        let data = normalize(input).unwrap();
        assert_eq!(Json::parse(data.as_bytes()), Some(normalized(tree, true)));
    }
    parsed.is_ok()
}

fn normalized(value: Json, is_top: bool) -> Json {
    match value {
        Json::Object(members) => {
            let is_shown = |(name, value): &(String, Json)| {
                *value != Json::Null && !(is_top && TRANSPORT_HEADERS.contains(&name.as_str()))
            };
            let rename = |(name, value): (String, Json)| {
                (name.to_ascii_lowercase().replace('-', "_"), normalized(value, false))
            };
            Json::Object(members.into_iter().filter(is_shown).map(rename).collect())
        }
        Json::List(items) => Json::List(items.into_iter().map(|item| normalized(item, false)).collect()),
        other => other,
    }
}
