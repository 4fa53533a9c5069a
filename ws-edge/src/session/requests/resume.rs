//! Subscribing with events of the past: `since`.

use std::{sync::Arc, time::SystemTime};

use super::confirmed;
use crate::{
    Edge,
    cursor::{Cursor, Rank},
    fanout::Wish,
    feed::stream::StreamInfo,
    request::Since,
    session::state::State,
};

/// Why events of the past do not come; clients match on it.
const EXPIRED: &str = "cursor expired";
const UNKNOWN: &str = "unknown stream";
/// What clients read who ask for the past where none is kept.
const NO_HISTORY: &str = "there is no history here : since is not possible";

/// From where on events are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) enum Past {
    /// Behind this event.
    Cursor(Cursor),
    /// Behind this position of the stream that is there.
    Position(u64),
    /// They are not all there any more.
    Gone,
}

impl Past {
    /// The position that a binding of this rank had everything up to. Of the cursor's own event, the bindings of a
    /// higher rank had nothing yet.
    fn behind(self, rank: Rank) -> u64 {
        match self {
            Past::Cursor(cursor) if rank <= cursor.rank => cursor.place.sequence,
            Past::Cursor(cursor) => cursor.place.sequence.saturating_sub(1),
            Past::Position(position) => position,
            Past::Gone => 0,
        }
    }
}

/// Finds from where on events are wanted.
///
/// # Errors
/// The text to reply.
pub(super) async fn past(edge: &Edge, since: Since) -> Result<Past, String> {
    let unavailable = |_| "events are not available at the moment, try again".to_owned();
    // A stream that was made this second is not known yet; whether a cursor is one of it is judged after the join.
    let is_known = edge.stream.borrow().is_some();
    if let (Since::Cursor(cursor), true) = (since, is_known) {
        return Ok(Past::Cursor(cursor));
    }
    let info = edge.history.info().await.map_err(unavailable)?.ok_or(NO_HISTORY)?;
    match since {
        Since::Cursor(cursor) => Ok(Past::Cursor(cursor)),
        Since::Back(back) => {
            let now = SystemTime::now();
            let time = now.checked_sub(back).unwrap_or(SystemTime::UNIX_EPOCH);
            if !info.reaches_back_to_time(time, now) {
                return Ok(Past::Gone);
            }
            edge.history.position_at(time).await.map(Past::Position).map_err(unavailable)
        }
    }
}

/// Joins from behind the past position. The outer result is the request's; the inner one tells whether the past comes,
/// and if not, why.
pub(super) async fn join(
    edge: &Arc<Edge>,
    state: &mut State,
    account: &str,
    bindings: Vec<String>,
    wishes: Vec<Wish>,
    past: Past,
) -> Result<Result<(), &'static str>, String> {
    let wishes: Vec<Wish> = wishes
        .into_iter()
        .map(|wish| {
            let position = past.behind(wish.shape.rank());
            wish.since(position)
        })
        .collect();
    let from = wishes.iter().filter_map(|wish| wish.since).min().unwrap_or_default();
    let replaced: Vec<_> = bindings.iter().filter_map(|binding| state.take_bound(account, binding)).collect();
    let fresh: Vec<String> =
        bindings.iter().filter(|binding| state.place(account, binding).is_none()).cloned().collect();
    // From here on the session waits for the past, until the request is answered.
    state.resumes = true;
    let joined = edge.fanout.join(&state.outbox, wishes, replaced);
    let confirmed = confirmed(edge, joined.confirmation).await;
    if confirmed.is_ok()
        && let Past::Cursor(cursor) = past
    {
        until_reached(edge, cursor).await;
    }
    // The confirmation has brought news of the stream.
    let (recovered, end) = match &*edge.stream.borrow() {
        Some(info) => (confirmed.map(|()| judge(past, from, info)), info.last),
        None => (confirmed.and_then(|()| Err(NO_HISTORY.to_owned())), joined.position),
    };
    if recovered != Ok(Ok(())) {
        edge.fanout.forgo_past(&state.outbox, &joined.memberships, joined.position, end);
    }
    state.bind(account, bindings, joined.memberships);
    if recovered.is_err() {
        // What was bound before goes on, the rest was never there.
        state.bound.retain(|bound| !(bound.account_id == account && fresh.contains(&bound.binding)));
    }
    recovered
}

/// In a cluster, a leader that does not know yet that it is none any more tells of less than clients have had. That is
/// no reason to give up their cursors; soon another one answers.
async fn until_reached(edge: &Edge, cursor: Cursor) {
    let is_reached = |info: &Option<StreamInfo>| {
        info.as_ref().is_none_or(|info| {
            info.leader.is_none()
                || info.identity != cursor.place.stream
                || info.last >= cursor.place.sequence
        })
    };
    let mut stream = edge.stream.clone();
    let _ = tokio::time::timeout(edge.config.request_timeout, stream.wait_for(is_reached)).await;
}

/// Whether everything behind position `from` comes.
fn judge(past: Past, from: u64, info: &StreamInfo) -> Result<(), &'static str> {
    match past {
        Past::Cursor(Cursor { place, .. }) if place.stream != info.identity || place.sequence > info.last => {
            Err(UNKNOWN)
        }
        Past::Gone => Err(EXPIRED),
        Past::Cursor(_) | Past::Position(_) if info.reaches_back_to(from) => Ok(()),
        Past::Cursor(_) | Past::Position(_) => Err(EXPIRED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Identity, Place};

    #[test]
    fn the_past_is_promised_only_where_all_of_it_is_there() {
        let info = StreamInfo {
            identity: Identity::new("this"),
            created: SystemTime::UNIX_EPOCH,
            first: 5,
            first_at: SystemTime::UNIX_EPOCH,
            last: 9,
            max_age: std::time::Duration::from_secs(600),
            is_roomy: true,
            leader: None,
        };
        let judged = |past, from| judge(past, from, &info);
        let cursor = |stream: &str, sequence| {
            let place = Place { stream: Identity::new(stream), sequence };
            Past::Cursor(Cursor { place, rank: Rank::of("a", "b") })
        };
        assert_eq!(judged(cursor("this", 4), 4), Ok(()));
        assert_eq!(judged(cursor("this", 9), 9), Ok(()));
        assert_eq!(
            judged(cursor("this", 4), 3),
            Err("cursor expired"),
            "the cursor's own event is owed to some"
        );
        assert_eq!(judged(cursor("this", 10), 10), Err("unknown stream"), "it was made anew unnoticed");
        assert_eq!(judged(cursor("other", 7), 7), Err("unknown stream"));
        assert_eq!(judged(Past::Position(3), 3), Err("cursor expired"));
        assert_eq!(judged(Past::Gone, 0), Err("cursor expired"));
    }

    #[test]
    fn of_the_cursors_own_event_only_later_frames_are_owed() {
        let [low, high] = {
            let mut ranks = [Rank::of("a", "call.*.*"), Rank::of("a", "call.#")];
            ranks.sort();
            ranks
        };
        let place = Place { stream: Identity::new("t"), sequence: 7 };
        let past = Past::Cursor(Cursor { place, rank: low });
        assert_eq!((past.behind(low), past.behind(high)), (7, 6));
        assert_eq!(Past::Cursor(Cursor { place, rank: high }).behind(low), 7);
    }
}
