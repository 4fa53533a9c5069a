//! WebSocket frames, and what clients make of those that they get.

use serde_json::Value;

use super::{
    Model,
    client::{Asked, Pending, Position, Since},
    thread::{Misfit, Thread, matches},
};

/// A client's text frame, with a mask of zeros.
pub(super) fn text(payload: &[u8]) -> Vec<u8> {
    frame(0x81, payload)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// Takes the first frame out: its first byte and payload.
fn next(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (first, length) = (*bytes.first()?, *bytes.get(1)?);
    let (start, length) = match length {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        length => (2, usize::from(length)),
    };
    let payload = bytes.get(start..start + length)?.to_vec();
    bytes.drain(..start + length);
    Some((first, payload))
}

impl Model {
    /// A client reads what has come.
    pub(super) fn take_frames(&mut self, client: usize) {
        loop {
            let Some(session) = &mut self.clients[client].session else { return };
            let Some((first, payload)) = next(&mut session.received) else { return };
            match first & 0x0f {
                1 => match serde_json::from_slice::<Value>(&payload) {
                    Ok(value) if value["action"] == "event" => self.event(client, &value),
                    Ok(value) if value["action"] == "reply" => self.reply(client, &value),
                    _ => self.blame(format!("client {client} got {}", String::from_utf8_lossy(&payload))),
                },
                8 => {
                    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    session.close_code = code.or(Some(0));
                    if let Some(reader) = session.reader.take() {
                        reader.wake();
                    }
                    self.send(client, frame(0x88, &payload));
                }
                9 => self.send(client, frame(0x8a, &payload)),
                _ => {}
            }
        }
    }

    fn event(&mut self, client: usize, frame: &Value) {
        let binding = frame["subscribed_key"].as_str().unwrap_or_default().to_owned();
        let id = frame["args"]["Msg-ID"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default();
        let Some(number) = self.number(id) else {
            return self.blame(format!("client {client} got an event that was never stored: {frame}"));
        };
        self.counts.frames += 1;
        self.digest(number << 8 | client as u64);
        self.say(|| format!("client {client} gets event {number} for {binding}"));
        let losses = self.losses;
        let event = &self.events[number as usize - 1];
        let own = &mut self.clients[client];
        if event.account != own.account || !matches(&binding, &event.key) {
            return self
                .blame(format!("client {client} got event {number} for {binding}, which is not its own"));
        }
        if let Some(cursor) = frame["cursor"].as_str() {
            let position = Position { cursor: cursor.to_owned(), number, of_event: true, losses };
            own.last = Some(position.clone());
            own.cursors.push(position);
        }
        own.got_since_request = true;
        let misfit = match (own.threads.get_mut(&binding), own.early.get_mut(&binding)) {
            (Some(thread), _) => thread.take(number, &self.events, own.account, &binding, self.may_be_late),
            (None, Some(early)) => early.take(number, &self.events, own.account, &binding, true),
            (None, None) => {
                return self
                    .blame(format!("client {client} got event {number} for {binding}, which it has not"));
            }
        };
        let text = match misfit {
            None => return,
            Some(Misfit::Twice) if self.may_double => return,
            Some(Misfit::Twice) => format!("got event {number} twice"),
            Some(Misfit::OutOfOrder(last)) => format!("got event {number} after event {last}"),
            Some(Misfit::TooEarly) => format!("got event {number}, which it had before"),
            Some(Misfit::Gap(missing)) => format!("got event {number}, but not event {missing}"),
        };
        self.blame(format!("client {client} {text} for {binding}"));
    }

    fn reply(&mut self, client: usize, frame: &Value) {
        let (count, losses) = (self.count(), self.losses);
        let own = &mut self.clients[client];
        let Some(pending) = own.pending.pop_front() else {
            return self.blame(format!("client {client} got a reply that it does not wait for: {frame}"));
        };
        if frame["request_id"] != pending.id {
            return self.blame(format!("client {client} got the reply to another request: {frame}"));
        }
        let is_success = frame["status"] == "success";
        let recovered = frame["data"]["recovered"].as_bool();
        if !is_success {
            self.counts.errors += 1;
            if self.is_well {
                self.blame(format!(
                    "client {client}'s request {pending:?} fails, though all is well: {frame}"
                ));
            }
        }
        self.say(|| format!("client {client} gets the reply {frame}"));
        self.digest(u64::from(is_success) << 1 | u64::from(recovered == Some(true)));
        let server_now = self.server_now();
        let events = &self.events;
        let own = &mut self.clients[client];
        match pending.asked {
            Asked::Ping => {}
            Asked::Unsubscribe { bindings } if is_success => {
                bindings.iter().for_each(|binding| drop(own.threads.remove(binding)));
            }
            Asked::Unsubscribe { .. } => {}
            Asked::Subscribe { bindings, since } => {
                for binding in &bindings {
                    let is_asked = |other: &Pending| matches!(&other.asked, Asked::Subscribe { bindings, .. } if bindings.contains(binding));
                    if !own.pending.iter().any(is_asked) {
                        own.early.remove(binding);
                    }
                    let live = || Thread::new(count + 1, 0);
                    let thread = match (&since, is_success, recovered) {
                        (Since::Now, true, _) => {
                            own.threads.entry(binding.clone()).or_insert_with(live);
                            continue;
                        }
                        (Since::Now, false, _) => continue,
                        // Existing ones continue, but the client was told.
                        (_, false, _) if own.must_resume => continue,
                        (_, false, _) => {
                            if let Some(thread) = own.threads.get_mut(binding) {
                                *thread = live();
                            }
                            continue;
                        }
                        // Where the stream has grown again, an old cursor may stand for what it has lost.
                        (Since::Last(position) | Since::Cursor(position), _, Some(true))
                            if position.losses != losses =>
                        {
                            live()
                        }
                        (Since::Last(_), _, Some(true))
                            if own.threads.contains_key(binding) && !self.may_be_late =>
                        {
                            continue;
                        }
                        (Since::Last(position) | Since::Cursor(position), _, Some(true)) => {
                            let is_exact = position.of_event && !self.may_be_late;
                            Thread::new(position.number + 1, if is_exact { position.number } else { 0 })
                        }
                        (Since::Ago(seconds), _, Some(true)) if !self.has_jumped && !self.was_cut_short => {
                            // The edge asks for the time between the request and its reply.
                            let now = server_now;
                            let ago = std::time::Duration::from_secs(*seconds);
                            let after = |time: std::time::SystemTime| {
                                events.partition_point(|event| event.at < time) as u64 + 1
                            };
                            Thread::new(after(now - ago), after(pending.sent_at - ago))
                        }
                        _ => live(),
                    };
                    own.threads.insert(binding.clone(), thread);
                }
                if is_success && std::mem::take(&mut own.must_resume) {
                    own.is_mixed = false;
                }
                match recovered {
                    Some(true) => self.counts.recovered += 1,
                    Some(false) => {
                        self.counts.unrecovered += 1;
                        if !self.may_miss && !matches!(since, Since::Ago(_)) {
                            self.blame(format!(
                                "client {client} is not recovered, though nothing is missing"
                            ));
                        }
                    }
                    None => {}
                }
            }
        }
        let own = &mut self.clients[client];
        if let (Some(cursor), false) = (frame["data"]["cursor"].as_str(), own.got_since_request) {
            own.last = Some(Position { cursor: cursor.to_owned(), number: count, of_event: false, losses });
        }
    }
}
