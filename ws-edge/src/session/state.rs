//! A session's state between requests.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use blackhole_common::{
    clock,
    wire::{Access, AuthReply, Bearer},
};

use crate::{
    clock::unix_now,
    config::OnTokenExpiry,
    delivery::dispatcher::Membership,
    edge::Edge,
    limits::accounts::AccountSession,
    operator::registry::RegistryEntry,
    outbox::Outbox,
    protocol::{event_stream::Framing, revoked::Revoked, token::Token, view::View},
    session::{kept_events::Present, rate_limit::RateLimiter},
};

/// The clock leeway of auth-svc: a token that it accepts after expiry stays valid for this time.
const LEEWAY: Duration = Duration::from_secs(30);
/// Accounts whose grants a session remembers.
const MAX_GRANTS: usize = 32;

/// Whom a session belongs to: its token and the token's claims.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The token.
    pub(crate) token: Token,
    /// The token's claims, as auth-svc returned them.
    pub(crate) bearer: Bearer,
    /// When the token expires.
    pub(crate) expires: Instant,
    /// The session among those of the token's account.
    pub(crate) session: Arc<AccountSession>,
}

impl Identity {
    /// The identity of a token that auth-svc has just accepted.
    pub(crate) fn new(token: Token, bearer: Bearer, session: Arc<AccountSession>) -> Identity {
        let left = Duration::from_secs(bearer.expires_at.saturating_sub(unix_now()));
        let left = if left.is_zero() { LEEWAY } else { left };
        // `Instant` cannot hold an expiry in the far future.
        let now = clock::now();
        let expires = now.checked_add(left).unwrap_or(now + Duration::from_secs(10 * 365 * 86_400));
        Identity { token, bearer, expires, session }
    }
}

/// One of a session's bindings.
#[derive(Debug)]
pub(super) struct Binding {
    /// The account; `*` for all.
    pub(super) account_id: Arc<str>,
    /// The binding as the client sent it; listings share it.
    pub(super) text: Arc<str>,
    /// The binding gets events until this is dropped. `None` only while it is being replaced.
    pub(super) membership: Option<Membership>,
}

impl Binding {
    /// About how much memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.membership.as_ref().map_or(0, Membership::bytes)
    }
}

/// A session's state between requests.
#[derive(Debug)]
pub(super) struct State {
    pub(super) address: IpAddr,
    pub(super) view: View,
    pub(super) framing: Framing,
    pub(super) outbox: Arc<Outbox>,
    pub(super) rate: RateLimiter,
    pub(super) identity: Option<Identity>,
    /// Tokens of the session that were refused, without repetitions.
    pub(super) refused_tokens: u32,
    /// The last one of them.
    pub(super) last_refused: Option<Token>,
    pub(super) entry: RegistryEntry,
    pub(super) bindings: Vec<Binding>,
    /// The session resumes: past events follow the reply.
    pub(super) resumes: bool,
    /// The kept events that follow the reply, before past ones.
    pub(super) present: Option<Box<Present>>,
    /// When auth-svc last confirmed all that the session has.
    pub(super) confirmed_at: Instant,
    /// What auth-svc granted before, by the account of the request; used while auth-svc is unavailable.
    granted: Vec<(Option<String>, Arc<AuthReply>)>,
}

impl State {
    /// The state of a new session, whose frames have this form.
    pub(super) fn new(
        edge: &Edge,
        address: IpAddr,
        (view, framing): (View, Framing),
        identity: Option<Identity>,
        outbox: Arc<Outbox>,
    ) -> State {
        if let Some(identity) = &identity {
            outbox.set_account(identity.session.account());
        }
        let state = State {
            address,
            view,
            framing,
            outbox,
            rate: RateLimiter::new(edge.config.rate, clock::now()),
            identity,
            refused_tokens: 0,
            last_refused: None,
            entry: edge.registry.enter(address),
            bindings: Vec::new(),
            resumes: false,
            present: None,
            confirmed_at: clock::now(),
            granted: Vec::new(),
        };
        state.update_registry();
        state
    }

    /// Updates the session's entry in the registry.
    pub(super) fn update_registry(&self) {
        let account = self.identity.as_ref().map(|identity| identity.bearer.account_id.as_str());
        self.entry.update(account, self.bindings.iter().map(|binding| &binding.text));
    }

    /// When the session must be closed because its token expires (`Some(None)`: never); `None` before it has a token.
    pub(super) fn expiry(&self, edge: &Edge) -> Option<Option<Instant>> {
        let identity = self.identity.as_ref()?;
        Some((edge.config.on_token_expiry == OnTokenExpiry::Close).then_some(identity.expires))
    }

    /// The last grant for this account.
    pub(super) fn granted(&self, account_id: &Option<String>) -> Option<Arc<AuthReply>> {
        self.granted.iter().find(|(account, _)| account == account_id).map(|(_, reply)| Arc::clone(reply))
    }

    /// The last grant whose access is to this account; `*` for all.
    pub(super) fn grant_of(&self, account: &str) -> Option<&AuthReply> {
        self.granted.iter().map(|(_, reply)| &**reply).find(|reply| match reply {
            AuthReply::Accepted { access: Access::All, .. } => account == "*",
            AuthReply::Accepted { access, .. } => access.account_id() == Some(account),
            AuthReply::Refused { .. } => false,
        })
    }

    /// Remembers a grant, for when auth-svc is unavailable.
    pub(super) fn remember(&mut self, account_id: Option<String>, reply: Arc<AuthReply>) {
        self.granted.retain(|(account, _)| *account != account_id);
        if self.granted.len() >= MAX_GRANTS {
            self.granted.clear();
        }
        // Most sessions use one account.
        self.granted.reserve_exact(1);
        self.granted.push((account_id, reply));
    }

    /// The index of an account's binding.
    pub(super) fn index_of(&self, account: &str, text: &str) -> Option<usize> {
        self.bindings.iter().position(|own| *own.account_id == *account && *own.text == *text)
    }

    /// An account's binding.
    pub(super) fn find(&self, account: &str, text: &str) -> Option<&Binding> {
        self.bindings.get(self.index_of(account, text)?)
    }

    /// Takes the membership of a binding that is about to get a new one; the binding keeps its place in the list.
    pub(super) fn take_membership(&mut self, account: &str, text: &str) -> Option<Membership> {
        let index = self.index_of(account, text)?;
        self.bindings.get_mut(index)?.membership.take()
    }

    /// Adds new bindings, and replaces the memberships of existing ones.
    pub(super) fn bind(&mut self, account: &str, texts: Vec<String>, memberships: Vec<Membership>) {
        // Most sessions subscribe once.
        self.bindings.reserve_exact(texts.len());
        let account_id: Arc<str> = account.into();
        for (text, membership) in texts.into_iter().zip(memberships) {
            let membership = Some(membership);
            let own = self.index_of(account, &text).and_then(|index| self.bindings.get_mut(index));
            match own {
                Some(own) => own.membership = membership,
                None => {
                    let (account_id, text) = (Arc::clone(&account_id), text.into());
                    self.bindings.push(Binding { account_id, text, membership });
                }
            }
        }
        self.note_accounts();
    }

    /// The accounts of all bindings.
    pub(super) fn accounts(&self) -> BTreeSet<Arc<str>> {
        self.bindings.iter().map(|binding| Arc::clone(&binding.account_id)).collect()
    }

    /// Tells the outbox which accounts concern the session.
    pub(super) fn note_accounts(&self) {
        let mut accounts = self.accounts();
        if let Some(identity) = &self.identity {
            accounts.remove(&*identity.bearer.account_id);
        }
        self.outbox.set_other_accounts(accounts.into_iter().collect());
    }

    /// The texts of an account's bindings.
    pub(super) fn texts_of(&self, account: &str) -> Vec<Arc<str>> {
        let bindings = self.bindings.iter().filter(|binding| *binding.account_id == *account);
        bindings.map(|binding| Arc::clone(&binding.text)).collect()
    }

    /// Ends the bindings of an account for which `reason` has one.
    pub(super) fn end(&mut self, account: &str, reason: impl Fn(&str) -> Option<String>) -> Vec<Revoked> {
        self.end_if(|binding| (*binding.account_id == *account).then(|| reason(&binding.text)).flatten())
    }

    /// Ends all bindings.
    pub(super) fn end_all(&mut self, reason: &str) -> Vec<Revoked> {
        self.end_if(|_| Some(reason.to_owned()))
    }

    fn end_if(&mut self, reason: impl Fn(&Binding) -> Option<String>) -> Vec<Revoked> {
        let mut revoked = Vec::new();
        self.bindings.retain(|binding| match reason(binding) {
            None => true,
            Some(reason) => {
                let (account_id, binding) = (binding.account_id.to_string(), binding.text.to_string());
                revoked.push(Revoked { account_id, binding, reason });
                false
            }
        });
        revoked
    }

    /// About how much memory all bindings take.
    pub(super) fn binding_bytes(&self) -> usize {
        self.bindings.iter().map(Binding::bytes).sum()
    }

    /// The texts of all bindings.
    pub(super) fn binding_texts(&self) -> Vec<&str> {
        self.bindings.iter().map(|binding| &*binding.text).collect()
    }
}
