//! What a session knows between requests.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::wire::{AuthReply, Bearer};

use super::Opening;
use crate::{
    Edge,
    authorizer::{Token, unix_now},
    config::OnTokenExpiry,
    fanout::Membership,
    frame::View,
    outbox::Outbox,
    rate::Rate,
    registry::Listed,
};

/// The leeway that auth-svc gives to clocks: a token that it accepted after its end may serve for so long.
const LEEWAY: Duration = Duration::from_secs(30);
/// Accounts whose grants a session remembers.
const MOST_REMEMBERED: usize = 32;

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
    /// Ends with this value. Absent only while it is replaced.
    pub membership: Option<Membership>,
}

/// What a session knows between requests.
#[derive(Debug)]
pub struct State {
    pub(super) address: IpAddr,
    pub(super) view: View,
    pub(super) outbox: Arc<Outbox>,
    pub(super) rate: Rate,
    pub(super) bearing: Option<Bearing>,
    pub(super) listed: Listed,
    pub(super) bound: Vec<Bound>,
    /// Events of the past were asked for: they are to follow the reply.
    pub(super) resumes: bool,
    /// What was granted before, by the account that was asked for, should auth-svc be away.
    granted: Vec<(Option<String>, Arc<AuthReply>)>,
}

impl State {
    pub(super) fn new(edge: &Edge, opening: Opening, outbox: Arc<Outbox>, now: Instant) -> State {
        let state = State {
            address: opening.address,
            view: opening.view,
            outbox,
            rate: Rate::new(edge.config.rate, now),
            bearing: opening.bearing,
            listed: edge.registry.enter(opening.address),
            bound: Vec::new(),
            resumes: false,
            granted: Vec::new(),
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

    /// What was granted when this account was asked for.
    pub(super) fn granted(&self, account_id: &Option<String>) -> Option<Arc<AuthReply>> {
        self.granted.iter().find(|(asked, _)| asked == account_id).map(|(_, reply)| Arc::clone(reply))
    }

    /// Remembers a grant for when auth-svc is away.
    pub(super) fn remember(&mut self, account_id: Option<String>, reply: Arc<AuthReply>) {
        self.granted.retain(|(asked, _)| *asked != account_id);
        if self.granted.len() >= MOST_REMEMBERED {
            self.granted.clear();
        }
        // Most sessions ask for one.
        self.granted.reserve_exact(1);
        self.granted.push((account_id, reply));
    }

    /// Where a binding of an account stands in the list.
    pub(super) fn place(&self, account: &str, binding: &str) -> Option<usize> {
        self.bound.iter().position(|bound| bound.account_id == account && bound.binding == binding)
    }

    /// Takes the membership out of a binding that is about to get another; its place in the list is kept.
    pub(super) fn take_bound(&mut self, account: &str, binding: &str) -> Option<Membership> {
        let place = self.place(account, binding)?;
        self.bound.get_mut(place)?.membership.take()
    }

    /// Adds bindings, or gives them their new membership.
    pub(super) fn bind(&mut self, account: &str, bindings: Vec<String>, memberships: Vec<Membership>) {
        // Most sessions bind once and for all.
        self.bound.reserve_exact(bindings.len());
        for (binding, membership) in bindings.into_iter().zip(memberships) {
            let known = self.place(account, &binding).and_then(|place| self.bound.get_mut(place));
            match known {
                Some(bound) => bound.membership = Some(membership),
                None => {
                    let account_id = account.to_owned();
                    self.bound.push(Bound { account_id, binding, membership: Some(membership) });
                }
            }
        }
    }

    /// The texts of all bindings.
    pub(super) fn subscriptions(&self) -> Vec<&str> {
        self.bound.iter().map(|bound| bound.binding.as_str()).collect()
    }
}
