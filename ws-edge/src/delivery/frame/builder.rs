//! Building event frames: an event's body between texts that are known beforehand, never parsed and printed again.

use std::{borrow::Cow, cell::OnceCell, sync::Arc};

use super::{event::Event, normalize::normalize, template::FrameTemplate};
use crate::{
    outbox::frame::{Frame, SharedText},
    protocol::{
        cursor::{Cursor, EventPosition, Rank},
        event_stream::{self, Framing},
        frame::text_frame,
        view::View,
    },
};
use blackhole_common::{subject::decode_key, wire};

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
    /// What compressed frames of a view end with: `args`, `data`, both.
    shared: [OnceCell<Arc<SharedText>>; 3],
}

/// Of a frame's parts, those that depend on its template. The others depend on its view at most.
const TEMPLATE_PARTS: usize = 9;

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
        Some(EventFrames {
            tenant,
            key,
            name,
            body,
            position,
            is_kept: false,
            data: OnceCell::new(),
            shared: <_>::default(),
        })
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
                let (head, rest) = parts.split_at(TEMPLATE_PARTS);
                let shared = self.shared(template.view());
                let rest = shared.get_or_init(|| Arc::new(SharedText::new(rest.concat().into())));
                Frame::compressible(head.concat(), rest)
            }
            Framing::EventStream => {
                event_stream::event(None, cursor.as_ref().map(|text| &text[..]), &parts).into()
            }
        })
    }

    fn shared(&self, view: View) -> &OnceCell<Arc<SharedText>> {
        let [args, data, both] = &self.shared;
        match view {
            View::Args => args,
            View::Data => data,
            View::Both => both,
        }
    }

    fn data(&self) -> Option<&str> {
        self.data.get_or_init(|| normalize(self.body.as_bytes()).ok()).as_deref()
    }
}

#[cfg(test)]
pub(crate) mod tests;
