//! Subscribing with the state: the last event of each living thing, and then what follows.
//!
//! The kept events are complete up to a position, and what follows is what follows on a cursor of that position: the
//! session resumes there. Until they are sent, it is held; a client that reads slowly delays only itself.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    access::binding::ParsedBinding,
    delivery::dispatcher::SubscribeRequest,
    edge::Edge,
    protocol::cursor::{Cursor, EventPosition, Rank},
    session::resume::{self, ResumeFrom},
    upstream::kept::{Filter, NoState, Snapshot},
};

/// A state that cannot be read is asked for again after this time.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Why there is no state. Clients match on these texts.
const NOTHING: &str = "nothing is kept of these bindings";
const NOT_KEPT: &str = "the state is not kept";
/// Who keeps it has been away for longer than the history.
pub(super) const OUTDATED: &str = "the state is not up to date";
const TOO_LARGE: &str = "the state is too large";
const UNAVAILABLE: &str = "the state is not available at the moment";

/// How a subscription begins.
#[derive(Default)]
pub(super) struct Begin {
    /// Where past events begin; `None`: it gets only live events.
    pub(super) from: Option<ResumeFrom>,
    /// The kept events that come before them.
    pub(super) snapshot: Option<Snapshot>,
    /// Why the events after the client's cursor cannot be sent; the state makes up for it.
    pub(super) lost: Option<&'static str>,
    /// Why there is no state.
    pub(super) no_state: Option<&'static str>,
}

/// Finds how a subscription begins. Who resumes and gets everything since needs no state.
pub(super) async fn begin(
    edge: &Edge,
    wants_state: bool,
    since: Option<ResumeFrom>,
    parsed: &[ParsedBinding<'_>],
    requests: &[SubscribeRequest],
) -> Begin {
    if !wants_state {
        return Begin { from: since, ..Begin::default() };
    }
    let snapshot = match read(edge, parsed, requests).await {
        Ok(snapshot) => snapshot,
        Err(reason) => return Begin { from: since, no_state: Some(reason), ..Begin::default() },
    };
    let lost = match since {
        None => None,
        Some(since) => match resume::check(edge, since, requests).await {
            Ok(()) => return Begin { from: Some(since), ..Begin::default() },
            Err(reason) => Some(reason),
        },
    };
    let position = EventPosition { stream: snapshot.stream, sequence: snapshot.position };
    let from = ResumeFrom::Cursor(Cursor { position, rank: Rank::LAST });
    Begin { from: Some(from), snapshot: Some(snapshot), lost, no_state: None }
}

/// Reads what is kept of some bindings.
///
/// # Errors
/// Why there is no state.
async fn read(
    edge: &Edge,
    parsed: &[ParsedBinding<'_>],
    requests: &[SubscribeRequest],
) -> Result<Snapshot, &'static str> {
    let mut filters = BTreeSet::new();
    for (parsed, request) in parsed.iter().zip(requests) {
        let Some(family) = parsed.family_with_state() else { continue };
        // Subjects are below the granted tenants, and so is what is kept.
        for subject in &request.subjects {
            let below = subject.strip_prefix(&edge.event_root).and_then(|rest| rest.strip_prefix('.'));
            let Some(tenant) = below.and_then(|below| below.split('.').next()) else { continue };
            filters.insert(Filter { tenant: tenant.to_owned(), family: family.to_owned() });
        }
    }
    if filters.is_empty() {
        return Err(NOTHING);
    }
    let Some(kept) = &edge.kept else { return Err(NOT_KEPT) };
    // Without a history nothing follows, and what was kept is old.
    let has_history = edge.stream.borrow().is_some();
    if !has_history && !edge.history.info().await.is_ok_and(|info| info.is_some()) {
        return Err(NOT_KEPT);
    }
    let filters: Vec<Filter> = filters.into_iter().collect();
    // Perhaps a leader is being elected.
    let read = async {
        loop {
            match kept.read(&filters).await {
                Ok(snapshot) => return Ok(snapshot),
                Err(NoState::NotKept) => return Err(NOT_KEPT),
                Err(NoState::TooLarge) => return Err(TOO_LARGE),
                Err(NoState::Unavailable(error)) => tracing::debug!(%error, "the state cannot be read"),
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    };
    let limit = edge.config.request_timeout / 2;
    tokio::time::timeout(limit, read).await.unwrap_or(Err(UNAVAILABLE))
}
