//! What a broker sends, taken apart where it lies: a delivery is slices of what was read, nothing is copied.
//!
//! AMQP 0-9-1, 2.3 and 4.2. Deliveries are read here; the few other methods by amq-protocol.

use bytes::{Buf, Bytes, BytesMut};
use lapin::protocol::constants::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD};
use thiserror::Error;

/// RabbitMQ's frames have at most so many bytes unless both sides agree on more, and this side does not.
pub(super) const MOST_FRAME_BYTES: u32 = 131_072;
/// What a frame has beside its payload: type, channel and size before it, the end mark behind it.
const HEAD_BYTES: usize = 7;
const BESIDE_PAYLOAD: usize = HEAD_BYTES + 1;
/// The class and number of the method that announces a delivery.
const DELIVER: [u8; 4] = [0, 60, 0, 60];

/// nats-server takes at most this as `max_payload`: a body that is larger is not kept.
const MOST_BODY_BYTES: u64 = 64 << 20;

/// A delivery, as slices of what was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivery {
    /// What it is acknowledged by.
    pub(super) tag: u64,
    /// Whether it was delivered before.
    pub(super) redelivered: bool,
    /// The exchange that it was published to.
    pub(super) exchange: Bytes,
    /// Its routing key; any bytes.
    pub(super) key: Bytes,
    /// The property `message-id`; any bytes.
    pub(super) message_id: Option<Bytes>,
    /// The property `timestamp`.
    pub(super) timestamp: Option<u64>,
    /// Its body; `None` where that is larger than NATS could ever take.
    pub(super) body: Option<Bytes>,
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// A delivery, complete.
    Delivery(Delivery),
    /// Another method: its whole frame.
    Method(Bytes),
    /// A sign of life.
    Heartbeat,
}

/// The broker does not speak the protocol.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the broker does not speak AMQP 0-9-1: {0}")]
pub(super) struct Garbled(&'static str);

/// Puts deliveries together: each comes as a method, a header, and as many bodies as its size takes.
#[derive(Debug, Default)]
pub(super) struct Reader {
    delivery: Delivery,
    /// How many bytes of its body have not come yet; `None` while its header has not.
    missing: Option<u64>,
    /// What has come of a body in several frames.
    parts: BytesMut,
}

impl Reader {
    /// Takes the next operation out of what was read; `None` if it is not all there yet.
    ///
    /// # Errors
    /// When it is none; the connection is of no more use.
    pub(super) fn next(&mut self, read: &mut BytesMut) -> Result<Option<Op>, Garbled> {
        while let Some(frame) = whole_frame(read)? {
            let payload = frame.slice(HEAD_BYTES..frame.len() - 1);
            let is_complete = match frame.first().copied().unwrap_or_default() {
                FRAME_METHOD if payload.starts_with(&DELIVER) => {
                    self.delivery = announced(payload).ok_or(Garbled("a broken delivery"))?;
                    (self.missing, self.parts) = (None, BytesMut::new());
                    false
                }
                FRAME_HEADER => self.header(payload).ok_or(Garbled("a broken content header"))?,
                FRAME_BODY => self.body(payload)?,
                FRAME_METHOD => return Ok(Some(Op::Method(frame))),
                FRAME_HEARTBEAT => return Ok(Some(Op::Heartbeat)),
                _ => return Err(Garbled("an unknown frame")),
            };
            if is_complete {
                self.missing = None;
                return Ok(Some(Op::Delivery(std::mem::take(&mut self.delivery))));
            }
        }
        Ok(None)
    }

    /// Class, weight, the body's size, then those properties that a flag says are there. Returns whether there is no
    /// body.
    fn header(&mut self, mut payload: Bytes) -> Option<bool> {
        payload.try_get_u32().ok()?;
        let size = payload.try_get_u64().ok()?;
        (self.delivery.message_id, self.delivery.timestamp) = properties(payload)?;
        self.delivery.body = (size <= MOST_BODY_BYTES).then(Bytes::new);
        self.missing = Some(size);
        Some(size == 0)
    }

    /// Returns whether the body is complete.
    fn body(&mut self, part: Bytes) -> Result<bool, Garbled> {
        const BEYOND: Garbled = Garbled("more body than was announced");
        let missing =
            self.missing.and_then(|missing| missing.checked_sub(part.len() as u64)).ok_or(BEYOND)?;
        self.missing = Some(missing);
        if let Some(body) = &mut self.delivery.body {
            match (missing, self.parts.is_empty()) {
                (0, true) => *body = part,
                (0, false) => {
                    self.parts.extend_from_slice(&part);
                    *body = self.parts.split().freeze();
                }
                _ => self.parts.extend_from_slice(&part),
            }
        }
        Ok(missing == 0)
    }
}

/// Type, channel, size, payload, end mark.
fn whole_frame(read: &mut BytesMut) -> Result<Option<Bytes>, Garbled> {
    let Some(&[_, _, _, a, b, c, d]) = read.first_chunk::<HEAD_BYTES>() else { return Ok(None) };
    let size = u32::from_be_bytes([a, b, c, d]);
    if size > MOST_FRAME_BYTES {
        return Err(Garbled("an impossible size"));
    }
    let bytes = size as usize + BESIDE_PAYLOAD;
    if read.len() < bytes {
        read.reserve(bytes - read.len());
        return Ok(None);
    }
    let frame = read.split_to(bytes).freeze();
    if frame.last() != Some(&FRAME_END) {
        return Err(Garbled("a frame without an end"));
    }
    Ok(Some(frame))
}

/// `basic.deliver`: consumer, tag, redelivered, exchange, key.
fn announced(mut payload: Bytes) -> Option<Delivery> {
    payload.advance(DELIVER.len());
    short_string(&mut payload)?;
    Some(Delivery {
        tag: payload.try_get_u64().ok()?,
        redelivered: payload.try_get_u8().ok()? & 1 == 1,
        exchange: short_string(&mut payload)?,
        key: short_string(&mut payload)?,
        ..Delivery::default()
    })
}

/// How the properties of class `basic` lie one after the other, as far as `timestamp`: from the highest bit of the flags
/// down.
const PROPERTIES: [Kind; 10] = {
    use Kind::{Octet, ShortString, Table, Timestamp};
    // content-type, content-encoding, headers, delivery-mode, priority, correlation-id, reply-to, expiration, message-id,
    // timestamp
    [
        ShortString,
        ShortString,
        Table,
        Octet,
        Octet,
        ShortString,
        ShortString,
        ShortString,
        ShortString,
        Timestamp,
    ]
};
const MESSAGE_ID: usize = 8;

enum Kind {
    Octet,
    ShortString,
    Table,
    Timestamp,
}

/// `message-id` and `timestamp`.
fn properties(mut payload: Bytes) -> Option<(Option<Bytes>, Option<u64>)> {
    let flags = payload.try_get_u16().ok()?;
    let (mut message_id, mut timestamp) = (None, None);
    for (place, kind) in PROPERTIES.iter().enumerate() {
        if flags & (0x8000 >> place) == 0 {
            continue;
        }
        match kind {
            Kind::Octet => drop(payload.try_get_u8().ok()?),
            Kind::Table => {
                let bytes = payload.try_get_u32().ok()? as usize;
                if bytes > payload.len() {
                    return None;
                }
                payload.advance(bytes);
            }
            Kind::ShortString => {
                let text = short_string(&mut payload)?;
                if place == MESSAGE_ID {
                    message_id = Some(text);
                }
            }
            Kind::Timestamp => timestamp = Some(payload.try_get_u64().ok()?),
        }
    }
    Some((message_id, timestamp))
}

fn short_string(payload: &mut Bytes) -> Option<Bytes> {
    let bytes = usize::from(payload.try_get_u8().ok()?);
    (bytes <= payload.len()).then(|| payload.split_to(bytes))
}

#[cfg(test)]
mod tests;
