//! Admitting new sessions: the limits of their clients, and their tokens.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use blackhole_common::wire::AuthReply;
use hyper::{HeaderMap, StatusCode, header};
use parking_lot::Mutex;

use super::{client_address::client_address, refusal::Refusal};
use crate::{
    edge::Edge,
    ids::SessionNumber,
    limits::{
        client_network::ClientNetwork,
        connection_limit::{ConnectionPermit, SessionPermit},
    },
    protocol::{token::Token, view::View},
    session::{
        authorize::{NotChecked, check_new},
        start::SessionStart,
        state::Identity,
        transport::Carrier,
    },
};

/// A session that may begin.
pub(super) struct Admitted {
    number: SessionNumber,
    address: IpAddr,
    identity: Option<Identity>,
    permit: ConnectionPermit,
    session_permit: SessionPermit,
}

impl Admitted {
    /// With what else its request asked for.
    pub(super) fn start(self, view: View, carrier: Carrier) -> SessionStart {
        let Admitted { number, address, identity, permit, session_permit } = self;
        SessionStart { number, address, view, carrier, identity, permit, session_permit }
    }
}

/// A connection whose requests ask for sessions.
pub(super) struct Peer {
    /// Its other end: perhaps a proxy.
    pub(super) address: SocketAddr,
    /// Its permit, if it has one already: that of a proxy gets one at the address that the proxy names.
    pub(super) permit: Mutex<Option<ConnectionPermit>>,
    /// Its next request has waited for its turn among new sessions: those with TLS do so before their handshake.
    pub(super) has_waited: AtomicBool,
}

/// What a request shows: its token, if it has one, or why that cannot be one.
pub(super) type Shown = Result<Option<Token>, &'static str>;

/// The token in `Authorization`, with or without `Bearer`, as KAZOO 5 accepts it.
pub(super) fn authorization(headers: &HeaderMap) -> Shown {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().map_err(|_| "not readable")?.trim();
    Ok(Some(match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Token::new(token.trim()),
        _ => Token::new(text),
    }))
}

/// Enforces the limits for new sessions, and authenticates the token, if there is one. A token that is not accepted is
/// refused with the status `refused`.
pub(super) async fn admit(
    edge: &Edge,
    peer: &Peer,
    headers: &HeaderMap,
    shown: Shown,
    refused: StatusCode,
) -> Result<Admitted, Refusal> {
    let address =
        client_address(peer.address.ip(), headers, edge.config.address_header, &edge.config.trusted_proxies);
    let client = ClientNetwork::of(address);
    // A refused request must not take the connection's permit from it: it stays open.
    let named =
        if peer.permit.lock().is_none() { Some(edge.limits.connections.connection(client)?) } else { None };
    let session_permit = edge.limits.connections.session()?;
    if !peer.has_waited.swap(false, Ordering::Relaxed) {
        edge.limits.accepts.wait(client).await?;
    }
    let not_accepted = |reason: &str| {
        let refusal = Refusal::new(refused, "token", format!("failed to authenticate token : {reason}"));
        if refused == StatusCode::UNAUTHORIZED {
            return refusal.with_header(header::WWW_AUTHENTICATE, "Bearer");
        }
        refusal
    };
    let identity = match shown.map_err(not_accepted)? {
        Some(token) => {
            Some(authenticate(edge, address, token).await?.map_err(|reason| not_accepted(&reason))?)
        }
        None => None,
    };
    let mut permit = match named.or_else(|| peer.permit.lock().take()) {
        Some(permit) => permit,
        None => edge.limits.connections.connection(client)?,
    };
    if identity.is_some() {
        permit.token_accepted();
    }
    let number = {
        static LAST: AtomicU64 = AtomicU64::new(0);
        LAST.fetch_add(1, Ordering::Relaxed)
    };
    Ok(Admitted { number, address, identity, permit, session_permit })
}

/// The identity of a token, or why it is refused.
async fn authenticate(
    edge: &Edge,
    address: IpAddr,
    token: Token,
) -> Result<Result<Identity, String>, Refusal> {
    match check_new(edge, address, &token, None).await {
        Ok(reply) => match &*reply {
            AuthReply::Accepted { bearer, .. } => {
                let session = edge.limits.accounts.enter(&bearer.account_id)?;
                Ok(Ok(Identity::new(token, bearer.clone(), session)))
            }
            AuthReply::Refused { reason } => Ok(Err(reason.clone())),
        },
        Err(NotChecked::TooMany) => {
            let text = NotChecked::TooMany.to_string();
            Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, "refused_tokens", text))
        }
        Err(unavailable) => {
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "auth_unavailable", unavailable.to_string())
                .with_header(header::RETRY_AFTER, "1"))
        }
    }
}
