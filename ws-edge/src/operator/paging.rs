//! Splits a list of sessions into messages.

use blackhole_common::wire::{SessionInfo, SessionsReply};

/// The sessions as one or more JSON messages, each a [`SessionsReply`] of about `max_bytes` at most. The last one is marked.
pub(super) fn pages(
    edge: &str,
    sessions: Vec<SessionInfo>,
    max_bytes: usize,
) -> impl Iterator<Item = Vec<u8>> {
    let edge = edge.to_owned();
    let mut sessions = sessions.into_iter().map(move |session| truncated(session, max_bytes)).peekable();
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let (mut page, mut bytes) = (Vec::new(), 0);
        while let Some((_, size)) = sessions.peek()
            && (page.is_empty() || bytes + size <= max_bytes)
        {
            bytes += size;
            page.extend(sessions.next().map(|(session, _)| session));
        }
        done = sessions.peek().is_none();
        serde_json::to_vec(&SessionsReply { edge: edge.clone(), last: done, sessions: page }).ok()
    })
}

/// A session and the size of its JSON. If it is too large for a message, only its first bindings are listed.
fn truncated(mut session: SessionInfo, max_bytes: usize) -> (SessionInfo, usize) {
    let size = |session: &SessionInfo| serde_json::to_vec(session).map_or(0, |json| json.len() + 1);
    let mut bytes = size(&session);
    if bytes > max_bytes {
        tracing::warn!(session = %session.session_id, bytes, "a session has too many bindings to list all of them");
    }
    while bytes > max_bytes && !session.bindings.is_empty() {
        session.bindings.truncate(session.bindings.len() / 2);
        bytes = size(&session);
    }
    (session, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(id: usize, bindings: usize) -> SessionInfo {
        SessionInfo {
            session_id: format!("{id:032x}"),
            account_id: Some("3f7a90d2c6b84e15a1f4e8b05d2c7961".into()),
            bindings: vec!["call.*.*".into(); bindings],
            since: 1_795_473_603,
            name: None,
            metadata: None,
            source: "192.0.2.7".into(),
            destination: "edge1".into(),
        }
    }

    fn replies(sessions: Vec<SessionInfo>, max_bytes: usize) -> Vec<SessionsReply> {
        let pages: Vec<Vec<u8>> = pages("e", sessions, max_bytes).collect();
        assert!(pages.iter().all(|page| page.len() <= max_bytes + 100), "at most {max_bytes}");
        pages.iter().map(|page| serde_json::from_slice(page).unwrap()).collect()
    }

    #[test]
    fn an_empty_list_is_one_message() {
        assert_eq!(
            replies(Vec::new(), 1000),
            [SessionsReply { edge: "e".into(), last: true, sessions: vec![] }]
        );
    }

    #[test]
    fn a_long_list_is_split_and_the_last_message_is_marked() {
        let sessions: Vec<SessionInfo> = (0..500).map(|id| session(id, id % 7)).collect();
        let replies = replies(sessions.clone(), 2000);
        assert!(replies.len() > 40, "{}", replies.len());
        let (last, rest) = replies.split_last().unwrap();
        assert!(last.last && rest.iter().all(|reply| !reply.last));
        let listed: Vec<SessionInfo> = replies.into_iter().flat_map(|reply| reply.sessions).collect();
        assert_eq!(listed, sessions);
    }

    #[test]
    fn a_session_larger_than_a_message_is_listed_with_its_first_bindings() {
        let replies = replies(vec![session(1, 2), session(2, 1000), session(3, 2)], 2000);
        let sessions: Vec<&SessionInfo> = replies.iter().flat_map(|reply| &reply.sessions).collect();
        assert_eq!(sessions.len(), 3);
        assert!((50..1000).contains(&sessions[1].bindings.len()), "{}", sessions[1].bindings.len());
        assert_eq!(*sessions[2], session(3, 2));
    }
}
