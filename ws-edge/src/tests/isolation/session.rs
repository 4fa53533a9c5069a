//! A session of the trials: what it subscribes to, from where on, and the frames that it got.

use std::{collections::BTreeMap, sync::Arc};

use blackhole_common::{
    owner::Owner,
    wire::{Access, Bearer},
};
use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use super::{
    bindings,
    dice::Dice,
    reference::{Asked, Who},
    world::{Ground, ROOT},
};
use crate::{
    access::binding,
    delivery::{
        dispatcher::{Membership, SubscribeRequest},
        testing::{ROOM, received},
    },
    outbox::{
        Outbox,
        tests::{Kept, outbox},
    },
    protocol::{
        cursor::Rank,
        event_stream::Framing,
        request::{Action, Request, Since},
        view::View,
    },
    session::subscribe,
};

/// A binding that a session has.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) asked: Asked,
    pub(super) rank: Rank,
    /// It is owed events after this position; without a history: this many events.
    pub(super) after: u64,
    /// How often each event came for it.
    pub(super) got: BTreeMap<usize, usize>,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) who: Who,
    view: View,
    request_id: Option<Value>,
    pub(super) bindings: Vec<Held>,
    pub(super) outbox: Arc<Outbox>,
    kept: Arc<Kept>,
    pub(super) memberships: Vec<Membership>,
    /// The cursors of its frames.
    pub(super) cursors: Vec<String>,
    /// Its account has its realm since this position.
    pub(super) realm_after: u64,
    last_event: usize,
}

/// A session that has not subscribed yet.
pub(super) struct Opened {
    pub(super) session: Session,
    /// What it asks the dispatcher for.
    pub(super) requests: Vec<SubscribeRequest>,
    pub(super) since: Option<Since>,
}

impl Session {
    /// A new session; none if no binding is accepted. `since` is the client's text.
    ///
    /// # Errors
    /// If a binding is accepted that must not be, or the other way round.
    pub(super) fn open(
        ground: &Ground,
        dice: &Dice,
        number: u64,
        who: &Who,
        since: Option<&str>,
        rng: &mut StdRng,
    ) -> Result<Option<Opened>, String> {
        let all: Vec<Asked> =
            (0..rng.random_range(1..5)).map(|_| bindings::asked(who, dice.binding(rng))).collect();
        let request_id = [None, Some(json!("7")), Some(json!(7))][rng.random_range(0..3)].clone();
        let view = [View::Args, View::Data, View::Both][rng.random_range(0..3)];
        let texts: Vec<&str> =
            all.iter().map(|asked| asked.binding.as_str()).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            return Ok(None);
        }
        let request = json!({
            "action": "subscribe",
            "request_id": request_id,
            "data": { "bindings": texts, "since": since },
        });
        let request = Request::read(&request.to_string()).map_err(|error| error.to_string())?;
        let Action::Subscribe(subscribe) = request.action().map_err(|error| error.to_string())? else {
            return Err("it is no subscription".to_owned());
        };
        let (bearer, access) = granted(who);
        let (outbox, kept) = outbox(number, ROOM);
        let mut session = Session {
            who: who.clone(),
            view,
            request_id: request_id.clone(),
            bindings: Vec::new(),
            outbox,
            kept,
            memberships: Vec::new(),
            cursors: Vec::new(),
            realm_after: 0,
            last_event: 0,
        };
        let mut requests = Vec::new();
        for text in subscribe.bindings {
            let asked = all.iter().find(|asked| asked.binding == text).ok_or("another text came out")?;
            let parsed = binding::parse(&ground.catalogue, &ground.families, &text, &bearer);
            let id = request_id.as_ref();
            let request = parsed.and_then(|parsed| {
                subscribe::request(ROOT, (view, Framing::WebSocket), &text, &parsed, &access, id)
            });
            if asked.patterns.is_some() && asked.allowed != request.is_ok() {
                return Err(format!("{who:?} asked {asked:?}: {request:?}"));
            }
            let Ok(request) = request else { continue };
            let rank = request.template.rank();
            session.bindings.push(Held { asked: asked.clone(), rank, after: 0, got: BTreeMap::new() });
            requests.push(request);
        }
        Ok((!requests.is_empty()).then_some(Opened { session, requests, since: subscribe.since }))
    }

    /// Reads the frames that have come.
    ///
    /// # Errors
    /// If a frame is not as the protocol says.
    pub(super) fn read(&mut self) -> Result<(), String> {
        for text in received(&self.outbox, &self.kept) {
            let frame: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
            self.frame(&frame).ok_or_else(|| format!("{:?} got {text}", self.who))?;
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Value) -> Option<()> {
        let binding = frame["subscribed_key"].as_str()?;
        let held = self.bindings.iter_mut().find(|held| held.asked.binding == binding)?;
        let (args, data) = (&frame["args"]["Msg-ID"], &frame["data"]["msg_id"]);
        let id = match self.view {
            View::Args if data.is_null() => args,
            View::Data if args.is_null() => data,
            View::Both if args == data => args,
            _ => return None,
        };
        let event: usize = id.as_str()?.parse().ok()?;
        *held.got.entry(event).or_default() += 1;
        self.cursors.extend(frame["cursor"].as_str().map(str::to_owned));
        let is_in_order = event >= std::mem::replace(&mut self.last_event, event);
        (is_in_order && frame.get("request_id") == self.request_id.as_ref()).then_some(())
    }
}

/// What auth-svc says of the session's token and account.
fn granted(who: &Who) -> (Bearer, Access) {
    let (account_id, access) = match who {
        Who::Account { id, realm, token_account, user, .. } => {
            let (account_id, realm) = (id.clone(), realm.clone());
            let access = match user {
                None => Access::Account { account_id, realm, realm_since_ms: None },
                Some(things) => {
                    let documents = things.documents.iter().cloned().map(Owner::Document);
                    let phones = things.phones.iter().cloned().map(Owner::Presence);
                    let token = Owner::Token(who.token_id().to_owned());
                    let own = documents.chain(phones).chain([token]).collect();
                    Access::Own { account_id, realm, realm_since_ms: None, own }
                }
            };
            (token_account.clone(), access)
        }
        Who::All { .. } => ("top".to_owned(), Access::All),
    };
    let token_id = Some(who.token_id().to_owned());
    (Bearer { account_id, expires_at: 9, superduper_admin: who.is_superduper(), token_id }, access)
}
