//! A client's connection to a simulated server: real bytes.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::transit::{Shared, Site};

/// A connection's number.
pub(crate) type ConnectionId = u64;

/// The server's end of a connection.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// Bytes from the client that are not parsed yet.
    pub(crate) incoming: BytesMut,
    /// Bytes for the client that it has not read.
    outgoing: BytesMut,
    /// The server has not ended it.
    pub(crate) is_open: bool,
    /// The client has ended it, or is dead.
    pub(crate) is_gone: bool,
    /// Nothing gets through, in either direction.
    pub(crate) is_stalled: bool,
    reader: Option<Waker>,
}

impl Pipe {
    pub(crate) fn new() -> Pipe {
        let (incoming, outgoing) = (BytesMut::new(), BytesMut::new());
        Pipe { incoming, outgoing, is_open: true, is_gone: false, is_stalled: false, reader: None }
    }

    /// Bytes reach the client. Returns how many it has not read.
    pub(crate) fn deliver(&mut self, bytes: &[u8]) -> usize {
        if !self.is_open || self.is_gone {
            return 0;
        }
        self.outgoing.extend_from_slice(bytes);
        if !self.is_stalled {
            self.wake();
        }
        self.outgoing.len()
    }

    /// The server ends the connection.
    pub(crate) fn close(&mut self) {
        self.is_open = false;
        self.wake();
    }

    /// Lets nothing through, or lets it through again.
    pub(crate) fn stall(&mut self, is_stalled: bool) {
        self.is_stalled = is_stalled;
        if !is_stalled {
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// Servers that accept connections.
pub(crate) trait Accepts: Site {
    /// The server's end of a connection; `None` if there is none.
    fn pipe(&mut self, id: ConnectionId) -> Option<&mut Pipe>;
    /// Bytes, or the end, have come on a connection that is not stalled.
    fn received(&mut self, id: ConnectionId);
    /// A connection that both sides have ended needs no memory any more.
    fn forget(&mut self, id: ConnectionId);

    /// The client has ended a connection.
    fn gone(&mut self, id: ConnectionId) {
        let Some(pipe) = self.pipe(id) else { return };
        pipe.is_gone = true;
        if !pipe.is_open {
            self.forget(id);
        } else if !pipe.is_stalled {
            self.received(id);
        }
    }
}

/// The client's end.
pub(crate) struct Stream<S: Accepts> {
    pub(crate) servers: Arc<Shared<S>>,
    pub(crate) id: ConnectionId,
}

impl<S: Accepts> AsyncRead for Stream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut servers = self.servers.state.lock();
        let Some(pipe) = servers.pipe(self.id) else { return Poll::Ready(Ok(())) };
        if pipe.is_stalled || (pipe.outgoing.is_empty() && pipe.is_open) {
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        // What was under way when the connection ended is lost.
        if !pipe.is_open {
            return Poll::Ready(Ok(()));
        }
        let size = pipe.outgoing.len().min(buffer.remaining());
        buffer.put_slice(&pipe.outgoing.split_to(size));
        Poll::Ready(Ok(()))
    }
}

impl<S: Accepts> AsyncWrite for Stream<S> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.servers.change(|servers| {
            let pipe = servers.pipe(self.id).filter(|pipe| pipe.is_open).ok_or(io::ErrorKind::BrokenPipe)?;
            pipe.incoming.extend_from_slice(bytes);
            if !pipe.is_stalled {
                servers.received(self.id);
            }
            Ok(bytes.len())
        }))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl<S: Accepts> Drop for Stream<S> {
    fn drop(&mut self) {
        self.servers.change(|servers| servers.gone(self.id));
    }
}
