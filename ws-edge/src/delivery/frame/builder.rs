//! Building event frames: an event's body between texts that are known beforehand, never parsed and printed again.

use std::{borrow::Cow, cell::OnceCell};

use blackhole_common::{subject::decode_key, wire};
use bytes::{BufMut, Bytes, BytesMut};

use super::{event::Event, normalize::normalize, template::FrameTemplate};
use crate::{
    outbox::frame::Frame,
    protocol::{
        cursor::{Cursor, EventPosition, Rank},
        event_stream::{self, Framing},
        frame::{MAX_HEADER_BYTES, TEXT, put_header},
        view::View,
    },
};

/// An event, checked and ready to become frames.
pub struct EventFrames<'e> {
    tenant: &'e str,
    /// The routing key and the event's name, as header texts.
    key: Cow<'e, str>,
    name: &'e str,
    body: &'e str,
    position: Option<EventPosition>,
    /// It is the last event of a thing that lives.
    is_kept: bool,
    data: OnceCell<Option<String>>,
}

impl<'e> EventFrames<'e> {
    /// Reads what the frames need; `None` if the event is none that amqp-ingest published.
    pub fn read(event_root: &str, event: &'e Event) -> Option<EventFrames<'e>> {
        let subject = std::str::from_utf8(&event.subject).ok()?;
        let below = subject.strip_prefix(event_root)?.strip_prefix('.')?;
        let (tenant, escaped) = below.split_once('.')?;
        let key = if escaped.contains('=') {
            Cow::Owned(wire::header_text(&String::from_utf8_lossy(&decode_key(escaped).ok()?)))
        } else if wire::is_header_text(escaped) && !escaped.contains('\\') {
            Cow::Borrowed(escaped)
        } else {
            Cow::Owned(wire::header_text(escaped))
        };
        let name = std::str::from_utf8(&event.name).ok().filter(|name| wire::is_header_text(name))?;
        let body = std::str::from_utf8(&event.body).ok()?;
        let position = event.position;
        Some(EventFrames { tenant, key, name, body, position, is_kept: false, data: OnceCell::new() })
    }

    /// The same, marked as the last event of a thing that lives.
    #[must_use]
    pub fn kept(self) -> EventFrames<'e> {
        EventFrames { is_kept: true, ..self }
    }

    /// The event's tenant.
    pub fn tenant(&self) -> &'e str {
        self.tenant
    }

    /// The frame as it goes over the wire, but for its compression; `None` if the body cannot be shown in the view.
    /// `is_last`: the session gets no further frame of this event.
    pub fn frame(&self, template: &FrameTemplate, is_last: bool) -> Option<Frame> {
        let args = if template.view() == View::Data { "" } else { self.body };
        let data = if template.view() == View::Args { "" } else { self.data()? };
        let cursor = self.position.map(|position| {
            Cursor { position, rank: if is_last { Rank::LAST } else { template.rank() } }.to_text()
        });
        let shown_key = template.shown_key().show(self.tenant, &self.key);
        let only = |is_there: bool, text: &'static str| if is_there { text } else { "" };
        let parts: [&[u8]; 14] = [
            br#"{"action":"event","#,
            only(self.is_kept, r#""state":true,"#).as_bytes(),
            only(cursor.is_some(), r#""cursor":""#).as_bytes(),
            cursor.as_ref().map_or(&[][..], |text| text),
            only(cursor.is_some(), r#"","#).as_bytes(),
            template.head().as_bytes(),
            self.name.as_bytes(),
            br#"","routing_key":""#,
            shown_key.as_bytes(),
            only(!args.is_empty(), r#"","args":"#).as_bytes(),
            args.as_bytes(),
            only(!data.is_empty(), if args.is_empty() { r#"","data":"# } else { r#","data":"# }).as_bytes(),
            data.as_bytes(),
            b"}",
        ];
        Some(match template.framing() {
            Framing::WebSocket => text_frame(&parts).into(),
            Framing::CompressedWebSocket => {
                Frame::compressible(text_frame(&parts), parts.iter().map(|part| part.len()).sum())
            }
            Framing::EventStream => {
                event_stream::event(None, cursor.as_ref().map(|text| &text[..]), &parts).into()
            }
        })
    }

    fn data(&self) -> Option<&str> {
        self.data.get_or_init(|| normalize(self.body.as_bytes()).ok()).as_deref()
    }
}

/// A WebSocket text frame of these parts (RFC 6455, 5.2).
pub(crate) fn text_frame(parts: &[&[u8]]) -> Bytes {
    let bytes = parts.iter().map(|part| part.len()).sum();
    let mut frame = BytesMut::with_capacity(bytes + MAX_HEADER_BYTES);
    put_header(&mut frame, TEXT, bytes);
    for part in parts {
        frame.put_slice(part);
    }
    frame.freeze()
}

#[cfg(test)]
pub(crate) mod tests;
