//! auth-svc, as far as an ingest asks it whose a dialled number is: it answers soon, late, that it cannot tell, or not at all.

use std::time::Duration;

use async_nats::RequestErrorKind;
use blackhole_common::{
    nats::requests::Requests,
    wire::{NumberReply, NumberRequest},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// What numbers of accounts begin with.
const PREFIX: &str = "+1415555";

/// The number of an account. It has several.
pub(crate) fn number(account: usize, extension: u64) -> String {
    format!("{PREFIX}{:02}{:02}", account, extension % 100)
}

/// auth-svc.
#[derive(Debug)]
pub(crate) struct AuthSvc(Mutex<StdRng>);

impl AuthSvc {
    pub(crate) fn new(seed: u64) -> AuthSvc {
        AuthSvc(Mutex::new(StdRng::seed_from_u64(seed)))
    }
}

impl Requests for AuthSvc {
    fn request(
        &self,
        _subject: String,
        payload: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'_, Result<Bytes, RequestErrorKind>> {
        let (kind, millis) = {
            let mut rng = self.0.lock();
            (rng.random_range(0..12), rng.random_range(0..100))
        };
        Box::pin(async move {
            let sleep = async |millis| tokio::time::sleep(Duration::from_millis(millis)).await;
            let request: NumberRequest = serde_json::from_slice(&payload).unwrap();
            let account = request
                .request
                .as_deref()
                .and_then(|number| number.strip_prefix(PREFIX)?.get(..2)?.parse().ok());
            let assigned = account.map_or(NumberReply::Unassigned, |account: usize| NumberReply::Assigned {
                account_id: format!("{account:032x}"),
            });
            let reply = match kind {
                0 => return Err(RequestErrorKind::NoResponders),
                1 => {
                    tokio::time::sleep(timeout).await;
                    return Err(RequestErrorKind::TimedOut);
                }
                2 => {
                    sleep(millis * 5).await;
                    assigned
                }
                3 => NumberReply::Unassigned,
                4 => return Ok(Bytes::new()),
                _ => {
                    sleep(millis).await;
                    assigned
                }
            };
            Ok(serde_json::to_vec(&reply).unwrap().into())
        })
    }
}
