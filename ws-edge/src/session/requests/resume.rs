//! Subscribing with events of the past: `since`.

use std::{sync::Arc, time::SystemTime};

use super::confirmed;
use crate::{
    Edge, cursor::Cursor, fanout::Wish, feed::stream::StreamInfo, request::Since, session::state::State,
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
    let since = match past {
        Past::Cursor(cursor) => cursor.sequence,
        Past::Position(position) => position,
        Past::Gone => 0,
    };
    let replaced: Vec<_> = bindings.iter().filter_map(|binding| state.take_bound(account, binding)).collect();
    let fresh: Vec<String> =
        bindings.iter().filter(|binding| state.place(account, binding).is_none()).cloned().collect();
    // From here on the session waits for the past, until the request is answered.
    state.resumes = true;
    let joined = edge.fanout.join(&state.outbox, wishes, replaced, Some(since));
    let confirmed = confirmed(edge, joined.confirmation).await;
    if confirmed.is_ok()
        && let Past::Cursor(cursor) = past
    {
        until_reached(edge, cursor).await;
    }
    // The confirmation has brought news of the stream.
    let (recovered, end) = match &*edge.stream.borrow() {
        Some(info) => (confirmed.map(|()| judge(past, info)), info.last),
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
            info.leader.is_none() || info.identity != cursor.stream || info.last >= cursor.sequence
        })
    };
    let mut stream = edge.stream.clone();
    let _ = tokio::time::timeout(edge.config.request_timeout, stream.wait_for(is_reached)).await;
}

fn judge(past: Past, info: &StreamInfo) -> Result<(), &'static str> {
    match past {
        Past::Cursor(cursor) if cursor.stream != info.identity || cursor.sequence > info.last => Err(UNKNOWN),
        Past::Cursor(cursor) if !info.reaches_back_to(cursor.sequence) => Err(EXPIRED),
        Past::Position(position) if !info.reaches_back_to(position) => Err(EXPIRED),
        Past::Gone => Err(EXPIRED),
        Past::Cursor(_) | Past::Position(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Identity;

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
        let cursor =
            |stream: &str, sequence| Past::Cursor(Cursor { stream: Identity::new(stream), sequence });
        assert_eq!(judge(cursor("this", 4), &info), Ok(()));
        assert_eq!(judge(cursor("this", 9), &info), Ok(()));
        assert_eq!(judge(cursor("this", 3), &info), Err("cursor expired"));
        assert_eq!(judge(cursor("this", 10), &info), Err("unknown stream"), "it was made anew unnoticed");
        assert_eq!(judge(cursor("other", 7), &info), Err("unknown stream"));
        assert_eq!(judge(Past::Position(3), &info), Err("cursor expired"));
        assert_eq!(judge(Past::Gone, &info), Err("cursor expired"));
    }
}
