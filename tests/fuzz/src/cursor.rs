//! Cursors, and the other texts of `since`.

use serde_json::json;
use ws_edge::{
    delivery::frame::{shown_key::ShownKey, template::FrameTemplate},
    protocol::{
        cursor::{Cursor, EventPosition, StreamId},
        request::{Action, Request, Since, Subscribe},
        view::View,
    },
};

/// A text of `since`. A cursor has one text only, and every position has a cursor.
pub(crate) fn run(input: &[u8]) -> bool {
    if let Some(number) = input.first_chunk() {
        let position = EventPosition { stream: StreamId::new("t"), sequence: u64::from_be_bytes(*number) };
        let binding = String::from_utf8_lossy(input);
        let template = FrameTemplate::new(View::Args, None, &binding, "", "", ShownKey::AsPublished);
        let cursor = Cursor { position, rank: template.rank() };
        assert_eq!(Cursor::parse(std::str::from_utf8(&cursor.to_text()).unwrap()), Ok(cursor));
    }
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let cursor = Cursor::parse(text);
    if let Ok(cursor) = cursor {
        assert_eq!(cursor.to_text(), input);
    }
    let frame = json!({ "action": "subscribe", "data": { "binding": "call.*.*", "since": text } });
    match Request::read(&frame.to_string()).and_then(Request::action) {
        Ok(Action::Subscribe(Subscribe { since: Some(since), .. })) => match since {
            Since::Cursor(read) => assert_eq!(Ok(read), cursor),
            Since::Ago(_) => assert!(text.starts_with('-')),
            Since::Unknown => assert!(cursor.is_err()),
        },
        Ok(action) => panic!("{action:?}"),
        Err(error) => {
            assert!(text.starts_with('-') && cursor.is_err());
            assert!(error.to_string().starts_with("invalid since : "), "{error}");
        }
    }
    cursor.is_ok()
}
