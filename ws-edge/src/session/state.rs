//! What a session knows between requests.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::wire::{Access, Bearer};

use super::Opening;
use crate::{
    Edge,
    authorizer::{Token, unix_now},
    config::OnTokenExpiry,
    fanout::{Membership, SessionNumber},
    frame::View,
    outbox::Outbox,
    rate::Rate,
    registry::Listed,
};

/// The leeway that auth-svc gives to clocks: a token that it accepted after its end may serve for so long.
const LEEWAY: Duration = Duration::from_secs(30);

/// The token that a session lives by, and who bears it.
#[derive(Clone, Debug)]
pub struct Bearing {
    /// The token.
    pub token: Token,
    /// What auth-svc said of it.
    pub bearer: Bearer,
    /// When its time is over.
    pub expires: Instant,
}

impl Bearing {
    /// A token that was accepted just now.
    pub fn new(token: Token, bearer: Bearer) -> Bearing {
        let left = Duration::from_secs(bearer.expires_at.saturating_sub(unix_now()));
        let left = if left.is_zero() { LEEWAY } else { left };
        // A token without an end in sight lives as long as the session.
        let now = Instant::now();
        let expires = now.checked_add(left).unwrap_or(now + Duration::from_secs(10 * 365 * 86_400));
        Bearing { token, bearer, expires }
    }
}

/// A binding that a session has.
#[derive(Debug)]
pub(super) struct Bound {
    /// The account; `*` for all.
    pub account_id: String,
    /// The client's text.
    pub binding: String,
    /// Ends with this value.
    pub membership: Membership,
}

/// What a session knows between requests.
#[derive(Debug)]
pub struct State {
    pub(super) number: SessionNumber,
    pub(super) address: IpAddr,
    pub(super) view: View,
    pub(super) outbox: Arc<Outbox>,
    pub(super) rate: Rate,
    pub(super) bearing: Option<Bearing>,
    pub(super) listed: Listed,
    pub(super) bound: Vec<Bound>,
    /// What was granted before, by the account that was asked for, should auth-svc be away.
    pub(super) granted: HashMap<Option<String>, Access>,
}

impl State {
    pub(super) fn new(edge: &Edge, opening: Opening, outbox: Arc<Outbox>, now: Instant) -> State {
        let state = State {
            number: opening.number,
            address: opening.address,
            view: opening.view,
            outbox,
            rate: Rate::new(edge.config.rate, now),
            bearing: opening.bearing,
            listed: edge.registry.enter(opening.address),
            bound: Vec::new(),
            granted: HashMap::new(),
        };
        state.list();
        state
    }

    /// Tells the registry what may have changed.
    pub(super) fn list(&self) {
        let account = self.bearing.as_ref().map(|bearing| bearing.bearer.account_id.as_str());
        self.listed.update(account, self.bound.iter().map(|bound| bound.binding.as_str()));
    }

    /// When the session is to be closed because of its token.
    pub(super) fn expires(&self, edge: &Edge) -> Option<Instant> {
        match edge.config.on_token_expiry {
            OnTokenExpiry::Close => self.bearing.as_ref().map(|bearing| bearing.expires),
            OnTokenExpiry::Keep => None,
        }
    }

    /// The texts of all bindings.
    pub(super) fn subscriptions(&self) -> Vec<&str> {
        self.bound.iter().map(|bound| bound.binding.as_str()).collect()
    }
}
