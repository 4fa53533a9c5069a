//! Deliveries that lapin cannot read, taken out of the way.
//!
//! AMQP's short strings are bytes, lapin's are UTF-8: a routing key or property with other bytes ends its connection
//! with a parse error, the broker delivers the message again, and so on for ever, with everything behind it waiting.
//! KAZOO never writes such a key, but anyone who may publish to its exchanges can.
//!
//! So after a parse error a connection of its own, which speaks just as much AMQP as it takes, reads from the queue
//! one message at a time, rejects those that lapin's own parser refuses, and stops at the first that it takes.

use std::time::Duration;

use amq_protocol::frame::parsing::parse_frame;
use futures_util::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use lapin::{
    tcp::{AMQPUriTcpExt, TLSConfig},
    uri::AMQPUri,
};
use tokio::time::timeout;

use super::Broker;
use crate::{body::Rejection, error::IngestError};

/// For all of it.
const DONE_WITHIN: Duration = Duration::from_secs(10);

/// When the broker sends nothing for this long, nothing more is waiting.
const IDLE: Duration = Duration::from_millis(500);

/// RabbitMQ's frames have at most 128 KiB unless both sides agree on more, and this side does not.
const FRAME_MAX: u32 = 131_072;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const FRAME_END: u8 = 0xCE;

/// A method's class and number in it.
type Method = (u16, u16);
const CONNECTION_START: Method = (10, 10);
const CONNECTION_START_OK: Method = (10, 11);
const CONNECTION_TUNE: Method = (10, 30);
const CONNECTION_TUNE_OK: Method = (10, 31);
const CONNECTION_OPEN: Method = (10, 40);
const CONNECTION_OPEN_OK: Method = (10, 41);
const CONNECTION_CLOSE: Method = (10, 50);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
const BASIC_QOS: Method = (60, 10);
const BASIC_QOS_OK: Method = (60, 11);
const BASIC_CONSUME: Method = (60, 20);
const BASIC_CONSUME_OK: Method = (60, 21);
const BASIC_DELIVER: Method = (60, 60);
const BASIC_REJECT: Method = (60, 90);

/// Rejects the unreadable messages at the head of the queue. Returns how many there were.
pub(super) async fn reject(broker: &Broker) -> Result<u64, IngestError> {
    let uri: AMQPUri = broker.place.url.reveal().parse().map_err(IngestError::AmqpUrl)?;
    let work = async {
        let runtime = lapin::runtime::default_runtime()?;
        let stream = uri.connect_with_config_async(TLSConfig::default(), &runtime).await?;
        let mut wire = Wire { stream };
        wire.consume(&uri, &broker.config.queue).await?;
        let mut rejected = 0;
        while let Ok(next) = timeout(IDLE, wire.next_is_readable()).await {
            let Some(tag) = next? else { break };
            wire.send(1, BASIC_REJECT, &[&tag.to_be_bytes(), &[0]]).await?;
            broker.metrics.rejected(Rejection::Unreadable).inc();
            rejected += 1;
        }
        wire.send(0, CONNECTION_CLOSE, &[&200u16.to_be_bytes(), &short("end"), &[0; 4]]).await?;
        Ok(rejected)
    };
    timeout(DONE_WITHIN, work).await.map_err(|_| IngestError::AmqpTimeout(DONE_WITHIN.as_secs()))?
}

/// A frame as it came, all of it.
struct Frame {
    kind: u8,
    bytes: Vec<u8>,
}

impl Frame {
    fn payload(&self) -> &[u8] {
        self.bytes.get(7..self.bytes.len().saturating_sub(1)).unwrap_or_default()
    }

    fn method(&self) -> Option<Method> {
        let &[a, b, c, d] = self.payload().first_chunk()?;
        (self.kind == METHOD).then(|| (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
    }

    fn is_readable(&self) -> bool {
        parse_frame(self.bytes.as_slice()).is_ok()
    }
}

struct Wire<S> {
    stream: S,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Connects as far as consuming from the queue, one message at a time.
    async fn consume(&mut self, uri: &AMQPUri, queue: &str) -> Result<(), IngestError> {
        self.stream.write_all(b"AMQP\0\0\x09\x01").await?;
        self.expect(CONNECTION_START).await?;
        let user = &uri.authority.userinfo;
        let response = format!("\0{}\0{}", user.username, user.password);
        let no_properties = [0; 4];
        let login = [&no_properties, &short("PLAIN")[..], &long(&response), &short("en_US")];
        self.send(0, CONNECTION_START_OK, &login).await?;
        self.expect(CONNECTION_TUNE).await?;
        // Two channels at most, no heartbeats: it will not take long.
        self.send(0, CONNECTION_TUNE_OK, &[&2u16.to_be_bytes(), &FRAME_MAX.to_be_bytes(), &[0; 2]]).await?;
        self.send(0, CONNECTION_OPEN, &[&short(&uri.vhost), &[0, 0]]).await?;
        self.expect(CONNECTION_OPEN_OK).await?;
        self.send(1, CHANNEL_OPEN, &[&[0]]).await?;
        self.expect(CHANNEL_OPEN_OK).await?;
        self.send(1, BASIC_QOS, &[&[0; 4], &1u16.to_be_bytes(), &[0]]).await?;
        self.expect(BASIC_QOS_OK).await?;
        self.send(1, BASIC_CONSUME, &[&[0; 2], &short(queue), &short("unreadable"), &[0], &[0; 4]]).await?;
        self.expect(BASIC_CONSUME_OK).await
    }

    /// Looks at the next message: `None` if lapin can read it, else its delivery tag.
    async fn next_is_readable(&mut self) -> Result<Option<u64>, IngestError> {
        let mut deliver = None;
        loop {
            let frame = self.receive().await?;
            match (frame.kind, frame.method()) {
                (_, Some(BASIC_DELIVER)) => deliver = Some(frame),
                (_, Some(CONNECTION_CLOSE | CHANNEL_CLOSE)) => return Err(refused(&frame)),
                (HEADER, _) => {
                    let Some(deliver) = deliver else { continue };
                    if deliver.is_readable() && frame.is_readable() {
                        return Ok(None);
                    }
                    return tag(deliver.payload()).map(Some).ok_or_else(|| refused(&deliver));
                }
                // Bodies, and whatever else the broker has to say.
                _ => {}
            }
        }
    }

    async fn expect(&mut self, method: Method) -> Result<(), IngestError> {
        loop {
            let frame = self.receive().await?;
            match frame.method() {
                Some(got) if got == method => return Ok(()),
                Some(CONNECTION_CLOSE | CHANNEL_CLOSE) => return Err(refused(&frame)),
                _ => {}
            }
        }
    }

    async fn send(
        &mut self,
        channel: u16,
        (class, number): Method,
        arguments: &[&[u8]],
    ) -> Result<(), IngestError> {
        let size: usize = 4 + arguments.iter().map(|part| part.len()).sum::<usize>();
        let mut frame = vec![METHOD];
        frame.extend(channel.to_be_bytes());
        frame.extend((size as u32).to_be_bytes());
        frame.extend(class.to_be_bytes());
        frame.extend(number.to_be_bytes());
        arguments.iter().for_each(|part| frame.extend(*part));
        frame.push(FRAME_END);
        self.stream.write_all(&frame).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn receive(&mut self) -> Result<Frame, IngestError> {
        let mut head = [0; 7];
        self.stream.read_exact(&mut head).await?;
        let [kind, _, _, a, b, c, d] = head;
        let size = u32::from_be_bytes([a, b, c, d]);
        if size > FRAME_MAX {
            return Err(IngestError::Handshake(format!("a frame of {size} bytes")));
        }
        let mut bytes = head.to_vec();
        bytes.resize(head.len() + size as usize + 1, 0);
        self.stream.read_exact(bytes.get_mut(head.len()..).unwrap_or_default()).await?;
        Ok(Frame { kind, bytes })
    }
}

/// The delivery tag: after class, method and the consumer's tag.
fn tag(deliver: &[u8]) -> Option<u64> {
    let (length, rest) = deliver.get(4..)?.split_first()?;
    rest.get(usize::from(*length)..)?.first_chunk().map(|tag| u64::from_be_bytes(*tag))
}

fn refused(frame: &Frame) -> IngestError {
    // Class, method, code, and a short text.
    let text = frame.payload().get(7..).unwrap_or_default();
    IngestError::Handshake(String::from_utf8_lossy(text).into_owned())
}

/// A short string; names are checked with the configuration to fit.
fn short(text: &str) -> Vec<u8> {
    let text = text.as_bytes().get(..255).unwrap_or(text.as_bytes());
    std::iter::once(text.len() as u8).chain(text.iter().copied()).collect()
}

/// A long string.
fn long(text: &str) -> Vec<u8> {
    (text.len() as u32).to_be_bytes().into_iter().chain(text.bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(key: &[u8]) -> Frame {
        let mut payload = vec![0, 60, 0, 60];
        payload.extend(short("unreadable"));
        payload.extend(77u64.to_be_bytes());
        payload.push(0);
        payload.extend(short("callevt"));
        payload.push(key.len() as u8);
        payload.extend(key);
        let mut bytes = vec![METHOD, 0, 1];
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        bytes.push(FRAME_END);
        Frame { kind: METHOD, bytes }
    }

    #[test]
    fn a_key_that_is_no_text_is_unreadable_and_has_its_tag() {
        let good = deliver("call.é.x".as_bytes());
        assert!(good.is_readable());
        assert_eq!(good.method(), Some(BASIC_DELIVER));
        let bad = deliver(b"call.\xff.x");
        assert!(!bad.is_readable());
        assert_eq!(bad.method(), Some(BASIC_DELIVER));
        assert_eq!(tag(bad.payload()), Some(77));
    }

    #[test]
    fn broken_frames_have_no_tag() {
        for bytes in [&[][..], &[0, 60, 0, 60], &[0, 60, 0, 60, 255, 1], &[0, 60, 0, 60, 0, 1, 2, 3]] {
            assert_eq!(tag(bytes), None);
        }
        assert_eq!(Frame { kind: METHOD, bytes: vec![1, 0] }.method(), None);
    }
}
