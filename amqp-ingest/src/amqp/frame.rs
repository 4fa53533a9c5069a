//! Decodes AMQP 0-9-1 frames (2.3 and 4.2 of the specification). A delivery is slices of the read buffer; only a body
//! that spans several frames is copied.
//!
//! amq-protocol parses the few methods other than deliveries.

use bytes::{Buf, Bytes, BytesMut};
use lapin::protocol::constants::{FRAME_BODY, FRAME_END, FRAME_HEADER, FRAME_HEARTBEAT, FRAME_METHOD};
use thiserror::Error;

/// The frame size that this side negotiates, RabbitMQ's default.
pub(super) const MAX_FRAME_BYTES: u32 = 131_072;
/// Type, channel and size, before the payload.
const FRAME_PREFIX_BYTES: usize = 7;
/// The prefix, and the end octet after the payload.
const FRAME_OVERHEAD_BYTES: usize = FRAME_PREFIX_BYTES + 1;
/// Class and method of `basic.deliver`.
const BASIC_DELIVER: [u8; 4] = [0, 60, 0, 60];

/// The longest method frame; RabbitMQ's have less than 1 KiB. amq-protocol recurses into the tables in a method, which 5
/// bytes each can nest: this many take at most 4 MiB of the main thread's stack of 8 MiB.
const MAX_METHOD_BYTES: usize = 2048;
/// The beginning of a content header's payload: class, weight and body size.
const HEADER_START_BYTES: usize = 12;

/// The largest `max_payload` that nats-server allows. Larger bodies are skipped.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// A delivery, as slices of the read buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The delivery tag.
    pub tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// The exchange: arbitrary bytes.
    pub exchange: Bytes,
    /// The routing key: arbitrary bytes.
    pub routing_key: Bytes,
    /// The property `message-id`: arbitrary bytes.
    pub message_id: Option<Bytes>,
    /// The property `timestamp`.
    pub timestamp: Option<u64>,
    /// The body; `None` if it exceeds the largest possible `max_payload` of NATS, or the properties exceed a frame.
    pub body: Option<Bytes>,
}

/// What the broker sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A complete delivery.
    Delivery(Delivery),
    /// The whole frame of another method.
    Method(Bytes),
    /// A heartbeat.
    Heartbeat,
}

/// The broker violates the protocol.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the broker sent invalid AMQP 0-9-1: {0}")]
pub struct ProtocolError(&'static str);

/// Assembles deliveries, each of which consists of a method frame, a header frame and any number of body frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    delivery: Delivery,
    /// Body bytes still expected; `None` before the header frame.
    body_remaining: Option<u64>,
    /// The received part of a body that spans several frames.
    partial_body: BytesMut,
    /// Bytes to skip: the rest of properties that exceed a frame. RabbitMQ sends them as they were published.
    to_skip: usize,
}

impl FrameDecoder {
    /// Decodes the next item and removes it from the read buffer. `None` if it is incomplete.
    ///
    /// # Errors
    /// If the input is invalid. The connection must be dropped then.
    pub fn next(&mut self, read: &mut BytesMut) -> Result<Option<Incoming>, ProtocolError> {
        loop {
            if self.skip_large_header(read) {
                return Ok(Some(self.complete()));
            }
            if self.to_skip > 0 {
                return Ok(None);
            }
            let Some(frame) = split_frame(read)? else { return Ok(None) };
            let payload = frame.slice(FRAME_PREFIX_BYTES..frame.len() - 1);
            let is_complete = match frame.first().copied().unwrap_or_default() {
                FRAME_METHOD if payload.starts_with(&BASIC_DELIVER) => {
                    self.delivery = parse_deliver(payload).ok_or(ProtocolError("malformed basic.deliver"))?;
                    (self.body_remaining, self.partial_body) = (None, BytesMut::new());
                    false
                }
                FRAME_HEADER => self.take_header(payload).ok_or(ProtocolError("malformed content header"))?,
                FRAME_BODY => self.take_body(payload)?,
                FRAME_METHOD if frame.len() > MAX_METHOD_BYTES => {
                    return Err(ProtocolError("method too large"));
                }
                FRAME_METHOD => return Ok(Some(Incoming::Method(frame))),
                FRAME_HEARTBEAT => return Ok(Some(Incoming::Heartbeat)),
                _ => return Err(ProtocolError("unknown frame type")),
            };
            if is_complete {
                return Ok(Some(self.complete()));
            }
        }
    }

    fn complete(&mut self) -> Incoming {
        self.body_remaining = None;
        Incoming::Delivery(std::mem::take(&mut self.delivery))
    }

    /// Skips a content header that exceeds a frame, so that one message cannot end every connection that receives it.
    /// The delivery has no body then. Returns whether it is complete: it announces no body.
    fn skip_large_header(&mut self, read: &mut BytesMut) -> bool {
        if self.to_skip == 0 {
            let mut start: &[u8] = read;
            let Some(FRAME_HEADER) = start.try_get_u8().ok() else { return false };
            let (Ok(_), Ok(bytes)) = (start.try_get_u16(), start.try_get_u32()) else { return false };
            if bytes <= MAX_FRAME_BYTES || start.len() < HEADER_START_BYTES {
                return false;
            }
            let (Ok(_), Ok(body_bytes)) = (start.try_get_u32(), start.try_get_u64()) else { return false };
            (self.delivery.body, self.body_remaining) = (None, Some(body_bytes));
            self.to_skip = bytes as usize + FRAME_OVERHEAD_BYTES;
        }
        let skipped = self.to_skip.min(read.len());
        read.advance(skipped);
        self.to_skip -= skipped;
        self.to_skip == 0 && self.body_remaining == Some(0)
    }

    /// Class, weight, body size, property flags, then the flagged properties. Returns whether the body is empty.
    fn take_header(&mut self, mut payload: Bytes) -> Option<bool> {
        payload.try_get_u32().ok()?;
        let size = payload.try_get_u64().ok()?;
        (self.delivery.message_id, self.delivery.timestamp) = parse_properties(payload)?;
        self.delivery.body = (size <= MAX_BODY_BYTES).then(Bytes::new);
        self.body_remaining = Some(size);
        Some(size == 0)
    }

    /// Returns whether the body is complete.
    fn take_body(&mut self, part: Bytes) -> Result<bool, ProtocolError> {
        const UNEXPECTED: ProtocolError = ProtocolError("unexpected body frame");
        let remaining = self
            .body_remaining
            .and_then(|remaining| remaining.checked_sub(part.len() as u64))
            .ok_or(UNEXPECTED)?;
        self.body_remaining = Some(remaining);
        if let Some(body) = &mut self.delivery.body {
            match (remaining, self.partial_body.is_empty()) {
                (0, true) => *body = part,
                (0, false) => {
                    self.partial_body.extend_from_slice(&part);
                    *body = self.partial_body.split().freeze();
                }
                _ => self.partial_body.extend_from_slice(&part),
            }
        }
        Ok(remaining == 0)
    }
}

/// Removes one frame from the read buffer: type, channel, size, payload, end octet.
fn split_frame(read: &mut BytesMut) -> Result<Option<Bytes>, ProtocolError> {
    let Some(&[_, _, _, a, b, c, d]) = read.first_chunk::<FRAME_PREFIX_BYTES>() else { return Ok(None) };
    let size = u32::from_be_bytes([a, b, c, d]);
    if size > MAX_FRAME_BYTES {
        // Of a large header, the start is needed first.
        let is_header = read.first() == Some(&FRAME_HEADER);
        let is_incomplete = read.len() < FRAME_PREFIX_BYTES + HEADER_START_BYTES;
        return if is_header && is_incomplete { Ok(None) } else { Err(ProtocolError("frame too large")) };
    }
    let bytes = size as usize + FRAME_OVERHEAD_BYTES;
    if read.len() < bytes {
        read.reserve(bytes - read.len());
        return Ok(None);
    }
    let frame = read.split_to(bytes).freeze();
    if frame.last() != Some(&FRAME_END) {
        return Err(ProtocolError("missing frame end"));
    }
    Ok(Some(frame))
}

/// `basic.deliver`: consumer tag, delivery tag, redelivered, exchange, routing key.
fn parse_deliver(mut payload: Bytes) -> Option<Delivery> {
    payload.advance(BASIC_DELIVER.len());
    short_string(&mut payload)?;
    Some(Delivery {
        tag: payload.try_get_u64().ok()?,
        redelivered: payload.try_get_u8().ok()? & 1 == 1,
        exchange: short_string(&mut payload)?,
        routing_key: short_string(&mut payload)?,
        ..Delivery::default()
    })
}

/// The types of the properties of class `basic`, up to `timestamp`, in the order of their flags from the highest bit
/// down.
const PROPERTIES: [PropertyType; 10] = {
    use PropertyType::{Octet, ShortString, Table, Timestamp};
    // content-type, content-encoding, headers, delivery-mode, priority, correlation-id, reply-to, expiration,
    // message-id, timestamp
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
/// The index of `message-id` in [`PROPERTIES`].
const MESSAGE_ID: usize = 8;

enum PropertyType {
    Octet,
    ShortString,
    Table,
    Timestamp,
}

/// Extracts `message-id` and `timestamp`.
fn parse_properties(mut payload: Bytes) -> Option<(Option<Bytes>, Option<u64>)> {
    let flags = payload.try_get_u16().ok()?;
    let (mut message_id, mut timestamp) = (None, None);
    for (index, kind) in PROPERTIES.iter().enumerate() {
        if flags & (0x8000 >> index) == 0 {
            continue;
        }
        match kind {
            PropertyType::Octet => drop(payload.try_get_u8().ok()?),
            PropertyType::Table => {
                let bytes = payload.try_get_u32().ok()? as usize;
                if bytes > payload.len() {
                    return None;
                }
                payload.advance(bytes);
            }
            PropertyType::ShortString => {
                let text = short_string(&mut payload)?;
                if index == MESSAGE_ID {
                    message_id = Some(text);
                }
            }
            PropertyType::Timestamp => timestamp = Some(payload.try_get_u64().ok()?),
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
