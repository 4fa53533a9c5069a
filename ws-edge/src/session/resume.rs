//! Subscribing with past events: `since`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use blackhole_common::wire::Access;
use tokio::time::timeout;

use crate::{
    delivery::dispatcher::SubscribeRequest,
    edge::Edge,
    protocol::{
        cursor::{Cursor, Rank},
        request::Since,
    },
    session::{confirm::confirmed, state::State},
    upstream::stream_info::StreamInfo,
};

/// Why past events are not sent. Clients match on these texts.
const EXPIRED: &str = "cursor expired";
const UNKNOWN: &str = "unknown stream";
const UNKNOWN_CURSOR: &str = "unknown cursor";
/// The error if the stream does not answer.
const UNAVAILABLE: &str = "events are not available at the moment, try again";
/// The error if there is no history.
const NO_HISTORY: &str = "there is no history here : since is not possible";

/// Where a session resumes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ResumeFrom {
    /// After this frame.
    Cursor(Cursor),
    /// At a time.
    Time(Moment),
    /// Some of the events have left the history.
    Trimmed,
    /// The cursor is not one that this edge understands.
    Unknown,
}

/// A time at which a session resumes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// The position of the newest event before it.
    pub(crate) position: u64,
    pub(crate) time: SystemTime,
    /// The server's time when it was looked up.
    pub(crate) now: SystemTime,
}

impl ResumeFrom {
    /// The position after which a binding of this rank needs events. Bindings of a higher rank than the cursor's have
    /// not received the cursor's own event.
    pub(crate) fn after(self, rank: Rank) -> u64 {
        match self {
            ResumeFrom::Cursor(cursor) if rank <= cursor.rank => cursor.position.sequence,
            ResumeFrom::Cursor(cursor) => cursor.position.sequence.saturating_sub(1),
            ResumeFrom::Time(moment) => moment.position,
            ResumeFrom::Trimmed | ResumeFrom::Unknown => 0,
        }
    }
}

/// Finds where a `since` resumes.
///
/// # Errors
/// The text to reply.
pub(super) async fn find(edge: &Edge, since: Since) -> Result<ResumeFrom, String> {
    let unavailable = |_| UNAVAILABLE.to_owned();
    // `join` checks the cursor later, because a new stream may not be known here yet.
    let is_known = edge.stream.borrow().is_some();
    if let (Since::Cursor(cursor), true) = (since, is_known) {
        return Ok(ResumeFrom::Cursor(cursor));
    }
    let info = edge.history.info().await.map_err(unavailable)?.ok_or(NO_HISTORY)?;
    match since {
        Since::Cursor(cursor) => Ok(ResumeFrom::Cursor(cursor)),
        Since::Unknown => Ok(ResumeFrom::Unknown),
        Since::Ago(age) => {
            // The server's: the edge's clock may differ.
            let now = edge.history.time().await.map_err(unavailable)?;
            let time = now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
            if !info.reaches_back_to_time(time, now) {
                return Ok(ResumeFrom::Trimmed);
            }
            let position = edge.history.position_at(time).await.map_err(unavailable)?;
            Ok(ResumeFrom::Time(Moment { position, time, now }))
        }
    }
}

/// Where the account has its realm only since a while, withholds the realm's earlier events, which are another account's.
pub(super) async fn without_others_past(
    edge: &Edge,
    access: &Access,
    mut requests: Vec<SubscribeRequest>,
) -> Result<Vec<SubscribeRequest>, String> {
    if let Some(since) = access.realm_since_ms() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(since);
        let position = edge.history.position_at(time).await.map_err(|_| UNAVAILABLE.to_owned())?;
        requests.iter_mut().for_each(|request| request.realms_after = position);
    }
    Ok(requests)
}

/// Subscribes with past events. The outer error fails the request; the inner one says why past events are not sent.
pub(super) async fn join(
    edge: &Arc<Edge>,
    state: &mut State,
    account: &str,
    bindings: Vec<String>,
    requests: Vec<SubscribeRequest>,
    from: ResumeFrom,
) -> Result<Result<(), &'static str>, String> {
    let requests: Vec<SubscribeRequest> = requests
        .into_iter()
        .map(|request| SubscribeRequest { since: Some(from.after(request.template.rank())), ..request })
        .collect();
    let after = requests.iter().filter_map(|request| request.since).min().unwrap_or_default();
    let replaced: Vec<_> =
        bindings.iter().filter_map(|binding| state.take_membership(account, binding)).collect();
    let new: Vec<String> =
        bindings.iter().filter(|binding| state.find(account, binding).is_none()).cloned().collect();
    // From here on the session gets no events until its request is answered.
    state.resumes = true;
    let joined = edge.dispatcher.join(&state.outbox, requests, replaced);
    let confirmed = confirmed(edge, joined.confirmation).await;
    if confirmed.is_ok()
        && let ResumeFrom::Cursor(cursor) = from
    {
        wait_until_reached(edge, cursor).await;
    }
    // The answer that confirmed the subjects has also updated `edge.stream`.
    let (recovered, end) = match &*edge.stream.borrow() {
        Some(info) => (confirmed.map(|()| check_recoverable(from, after, info)), info.last),
        None => (confirmed.and_then(|()| Err(NO_HISTORY.to_owned())), joined.live),
    };
    if recovered != Ok(Ok(())) {
        edge.dispatcher.forgo_past(&state.outbox, &joined.memberships, end);
    }
    state.bind(account, bindings, joined.memberships);
    if recovered.is_err() {
        // Remove the new bindings; existing ones continue.
        state
            .bindings
            .retain(|own| !(*own.account_id == *account && new.iter().any(|new| **new == *own.text)));
    }
    recovered
}

/// Whether the history has everything that these requests need.
pub(super) async fn check(
    edge: &Edge,
    from: ResumeFrom,
    requests: &[SubscribeRequest],
) -> Result<(), &'static str> {
    if let ResumeFrom::Cursor(cursor) = from {
        wait_until_reached(edge, cursor).await;
    }
    // What the edge knows may be a second old.
    let info = edge.history.info().await.ok().flatten().or_else(|| edge.stream.borrow().clone());
    let after = requests.iter().map(|request| from.after(request.template.rank())).min().unwrap_or_default();
    info.map_or(Err(UNKNOWN), |info| check_recoverable(from, after, &info))
}

/// After a leader change in a cluster, the old leader may still report a position below valid cursors. Waits until the
/// new leader answers.
async fn wait_until_reached(edge: &Edge, cursor: Cursor) {
    let is_reached = |info: &Option<StreamInfo>| {
        info.as_ref().is_none_or(|info| {
            info.leader.is_none()
                || info.id != cursor.position.stream
                || info.last >= cursor.position.sequence
        })
    };
    let mut stream = edge.stream.clone();
    let _ = timeout(edge.config.request_timeout, stream.wait_for(is_reached)).await;
}

/// Checks that the history has everything after position `after`.
pub(crate) fn check_recoverable(from: ResumeFrom, after: u64, info: &StreamInfo) -> Result<(), &'static str> {
    match from {
        ResumeFrom::Cursor(Cursor { position, .. })
            if position.stream != info.id || position.sequence > info.last =>
        {
            Err(UNKNOWN)
        }
        ResumeFrom::Trimmed => Err(EXPIRED),
        ResumeFrom::Unknown => Err(UNKNOWN_CURSOR),
        // Events may have left the history after it was looked at, and before the position was looked up.
        ResumeFrom::Time(Moment { time, now, .. }) if !info.reaches_back_to_time(time, now) => Err(EXPIRED),
        ResumeFrom::Cursor(_) | ResumeFrom::Time(_) if info.reaches_back_to(after) => Ok(()),
        ResumeFrom::Cursor(_) | ResumeFrom::Time(_) => Err(EXPIRED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::cursor::{EventPosition, StreamId};

    #[test]
    fn recovery_needs_a_complete_history() {
        let info = StreamInfo {
            id: StreamId::new("this"),
            created: SystemTime::UNIX_EPOCH,
            first: 5,
            first_at: SystemTime::UNIX_EPOCH + Duration::from_secs(800),
            last: 9,
            last_at: SystemTime::UNIX_EPOCH + Duration::from_secs(800),
            max_age: Duration::from_secs(600),
            is_roomy: true,
            leader: None,
        };
        let check = |from, after| check_recoverable(from, after, &info);
        let cursor = |stream: &str, sequence| {
            let position = EventPosition { stream: StreamId::new(stream), sequence };
            ResumeFrom::Cursor(Cursor { position, rank: Rank::of("a", "b") })
        };
        assert_eq!(check(cursor("this", 4), 4), Ok(()));
        assert_eq!(check(cursor("this", 9), 9), Ok(()));
        assert_eq!(
            check(cursor("this", 4), 3),
            Err("cursor expired"),
            "a binding of a higher rank needs the cursor's own event"
        );
        assert_eq!(check(cursor("this", 10), 10), Err("unknown stream"), "the stream was created again");
        assert_eq!(check(cursor("other", 7), 7), Err("unknown stream"));
        let at = |time, position| {
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(900);
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
            check(ResumeFrom::Time(Moment { position, time, now }), position)
        };
        assert_eq!((at(800, 4), at(400, 4)), (Ok(()), Ok(())));
        assert_eq!(at(400, 3), Err("cursor expired"));
        assert_eq!(
            at(200, 9),
            Err("cursor expired"),
            "events left the history while the position was looked up"
        );
        assert_eq!(check(ResumeFrom::Trimmed, 0), Err("cursor expired"));
        assert_eq!(check(ResumeFrom::Unknown, 0), Err("unknown cursor"));
    }

    #[test]
    fn only_higher_ranks_need_the_cursors_own_event() {
        let [low, high] = {
            let mut ranks = [Rank::of("a", "call.*.*"), Rank::of("a", "call.#")];
            ranks.sort();
            ranks
        };
        let position = EventPosition { stream: StreamId::new("t"), sequence: 7 };
        let from = ResumeFrom::Cursor(Cursor { position, rank: low });
        assert_eq!((from.after(low), from.after(high)), (7, 6));
        assert_eq!(ResumeFrom::Cursor(Cursor { position, rank: high }).after(low), 7);
    }
}
