//! Subscribing with events of the past: `since`.

use std::{sync::Arc, time::SystemTime};

use super::confirmed;
use crate::{
    Edge, cursor::Cursor, fanout::Wish, feed::stream::StreamInfo, request::Since, session::state::State,
};

/// Why events of the past do not come; clients match on it.
const EXPIRED: &str = "cursor expired";
const UNKNOWN: &str = "unknown stream";

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
    if edge.stream.borrow().is_none() {
        return Err("there is no history here : since is not possible".to_owned());
    }
    match since {
        Since::Cursor(cursor) => Ok(Past::Cursor(cursor)),
        Since::Back(back) => {
            let unavailable = |_| "events are not available at the moment, try again".to_owned();
            let now = SystemTime::now();
            let time = now.checked_sub(back).unwrap_or(SystemTime::UNIX_EPOCH);
            match edge.history.info().await.map_err(unavailable)? {
                Some(info) if info.reaches_back_to_time(time, now) => {
                    edge.history.position_at(time).await.map(Past::Position).map_err(unavailable)
                }
                _ => Ok(Past::Gone),
            }
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
    // The confirmation has brought news of the stream.
    let recovered = match &*edge.stream.borrow() {
        Some(info) if confirmed.is_ok() => judge(past, info),
        _ => Err(UNKNOWN),
    };
    if recovered.is_err() {
        edge.fanout.forgo_past(&state.outbox, &joined.memberships, joined.position);
    }
    state.bind(account, bindings, joined.memberships);
    if let Err(error) = confirmed {
        // What was bound before goes on, the rest was never there.
        state.bound.retain(|bound| !(bound.account_id == account && fresh.contains(&bound.binding)));
        return Err(error);
    }
    Ok(recovered)
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
