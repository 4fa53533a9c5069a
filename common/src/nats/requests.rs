//! Requests over NATS and their replies.

use std::{fmt::Debug, time::Duration};

use async_nats::{Client, Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Sends requests.
pub trait Requests: Debug + Send + Sync {
    /// Sends a request, and waits at most `timeout` for the payload of the reply.
    fn request(
        &self,
        subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestErrorKind>>;
}

impl Requests for Client {
    fn request(
        &self,
        subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestErrorKind>> {
        Box::pin(async move {
            let request = Request::new().payload(payload).timeout(Some(timeout));
            match self.send_request(subject, request).await {
                Ok(reply) => Ok(reply.payload),
                Err(error) => {
                    tracing::debug!(%error, "no reply");
                    Err(error.kind())
                }
            }
        })
    }
}
