//! Which things live, and where their last events are kept: a pure model, which turns events into writes and deletions.

use std::collections::HashMap;

use blackhole_common::{
    catalogue::{Catalogue, Said},
    subject,
    tenant::Tenant,
    wire,
};
use bytes::Bytes;
use ring::digest::{Context, SHA256};

use crate::{body, tenant};

/// What a kept event takes besides its subject and body: headers, and the server's and the keeper's own bookkeeping.
const BYTES_PER_ENTRY: usize = 500;

/// A thing: a digest of its family, kind and key.
pub type Thing = u128;

/// An event of the stream.
#[derive(Clone, Debug)]
pub struct StreamEvent {
    /// Its position.
    pub position: u64,
    /// Its subject below the root: tenant and escaped routing key.
    pub below: String,
    /// When the stream stored it, in milliseconds since 1970.
    pub at_ms: u64,
    /// The headers that it keeps: `Bh-…`.
    pub headers: Vec<(&'static str, String)>,
    /// Its body.
    pub body: Bytes,
}

impl StreamEvent {
    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<StreamEvent>() + self.below.len() + self.body.len()
    }
}

/// Of a living thing: where its last event is kept, and whose it is.
#[derive(Debug)]
struct Entry {
    family: usize,
    /// The tenant below which it is kept.
    tenant: u64,
    /// All tenants that its event names.
    tenants: Box<[u64]>,
    position: u64,
    at_ms: u64,
    until_ms: u64,
    bytes: usize,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At this position of the stream of kept events.
    Stored(u64),
    /// The write with this index brings it, and replaces what is kept at a position.
    New { index: usize, replaces: Option<u64> },
}

/// An entry as it is stored.
#[derive(Debug)]
pub(super) struct Stored {
    /// The index of its family.
    pub(super) family: usize,
    /// The thing.
    pub(super) thing: Thing,
    /// The word of the tenant below which it is kept.
    pub(super) tenant: String,
    /// The words of all tenants that it names, with spaces between.
    pub(super) tenants: String,
    /// The event's position.
    pub(super) position: u64,
    /// When it was stored, in milliseconds since 1970.
    pub(super) at_ms: u64,
    /// Until when it is kept without another event, in milliseconds since 1970.
    pub(super) until_ms: u64,
    /// The bytes of its subject and body.
    pub(super) bytes: usize,
    /// Its position in the stream of kept events.
    pub(super) sequence: u64,
}

/// An event to be kept.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) thing: Thing,
    tenant: u64,
    /// The subject below [`wire::Subjects::state`].
    pub(super) below: String,
    /// The event.
    pub(super) event: StreamEvent,
    /// The words of all tenants that it names.
    pub(super) tenants: String,
    /// Until when it is kept without another event, in milliseconds since 1970.
    pub(super) until_ms: u64,
}

/// What a batch of events changes.
#[derive(Debug, Default)]
pub struct Changes {
    writes: Vec<Option<Write>>,
    /// Positions in the stream of kept events that are to be deleted.
    pub(super) deletions: Vec<u64>,
}

/// The things that live.
#[derive(Debug, Default)]
pub struct Living {
    things: HashMap<Thing, Vec<Entry>>,
    /// About how much they take.
    bytes: usize,
    count: usize,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.deletions.is_empty() && self.writes().next().is_none()
    }

    /// What is to be kept, with its index, in the order of the events.
    pub(super) fn writes(&self) -> impl Iterator<Item = (usize, &Write)> {
        self.writes.iter().enumerate().filter_map(|(index, write)| Some((index, write.as_ref()?)))
    }
}

impl Living {
    /// How many things live.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Adds what is stored. Returns the position of an older one that it replaces.
    pub(super) fn load(&mut self, stored: Stored) {
        let Stored { family, thing, tenant, tenants, position, at_ms, until_ms, bytes, sequence } = stored;
        let tenants = tenants.split(' ').filter(|word| !word.is_empty()).map(digest_of).collect();
        let place = Place::Stored(sequence);
        let bytes = bytes + BYTES_PER_ENTRY;
        let tenant = digest_of(&tenant);
        self.add(thing, Entry { family, tenant, tenants, position, at_ms, until_ms, bytes, place });
    }

    fn add(&mut self, thing: Thing, entry: Entry) {
        self.bytes += entry.bytes;
        self.count += 1;
        self.things.entry(thing).or_default().push(entry);
    }

    /// Takes in an event. If what it says `is_known` to be stored, only removes what it has replaced or ended: a server
    /// that was killed may have it again.
    pub fn apply(
        &mut self,
        catalogue: &Catalogue,
        event: &StreamEvent,
        is_known: bool,
        changes: &mut Changes,
    ) {
        let Some((tenant_word, escaped)) = event.below.split_once('.') else { return };
        let Some(key) = subject::decode_key(escaped).ok().and_then(|key| String::from_utf8(key).ok()) else {
            return;
        };
        for (family, name, kind) in catalogue.kinds_of_key(&key) {
            if kind.state.is_empty() {
                continue;
            }
            let tenant_paths = tenant::body_paths(kind);
            let mut paths = tenant_paths.clone();
            for path in kind.state.iter().flat_map(|things| things.paths()) {
                if !paths.contains(&path) {
                    paths.push(path);
                }
            }
            let Ok(parsed) = body::parse(&event.body, &paths) else { continue };
            let words: Vec<&str> = key.split('.').collect();
            let value = |parameter: Option<&str>, path: Option<&str>| match (parameter, path) {
                (Some(parameter), _) => words.get(kind.key.position(parameter)?).copied(),
                (None, Some(path)) => {
                    let index = paths.iter().position(|own| *own == path)?;
                    parsed.members.get(index)?.as_deref()
                }
                (None, None) => None,
            };
            let mut tenants: Vec<String> = vec![tenant_word.to_owned()];
            let members = parsed.members.get(..tenant_paths.len()).unwrap_or_default();
            for named in tenant::named(kind, &key, members).iter().map(Tenant::to_string) {
                if !tenants.contains(&named) {
                    tenants.push(named);
                }
            }
            for (index, things) in kind.state.iter().enumerate() {
                let (key, lives) = match things.read(value) {
                    None => continue,
                    Some(Said::Lives(key)) => (key, true),
                    Some(Said::Ended(key)) => (key, false),
                };
                let thing = thing(name, kind.key.as_str(), index, &key);
                let max_age = u64::try_from(things.max_age.as_millis()).unwrap_or(u64::MAX);
                let until_ms = event.at_ms.saturating_add(max_age);
                let owner = Owner { family, name, thing, tenants: &tenants };
                self.replace(owner, event, lives.then_some(until_ms), is_known, changes);
            }
        }
    }

    /// The thing has ended (`until_ms` is `None`), or `event` is its last.
    fn replace(
        &mut self,
        owner: Owner<'_>,
        event: &StreamEvent,
        until_ms: Option<u64>,
        is_known: bool,
        changes: &mut Changes,
    ) {
        let Owner { family, name, thing, tenants } = owner;
        let digests: Box<[u64]> = tenants.iter().map(|word| digest_of(word)).collect();
        let tenant = digests.first().copied().unwrap_or_default();
        let entries = self.things.entry(thing).or_default();
        // An event that names only the realm and one that names the account are of one thing, if they name a common
        // tenant. Equal keys of others are other things.
        let is_same =
            |entry: &Entry| entry.tenants.iter().chain([&entry.tenant]).any(|own| digests.contains(own));
        // What an earlier keeper has stored may be further than this event.
        let is_newer = |entry: &Entry| is_same(entry) && entry.position >= event.position;
        let until_ms = until_ms.filter(|_| !is_known && !entries.iter().any(is_newer));
        let mut replaces = None;
        entries.retain(|entry| {
            if !is_same(entry) || entry.position >= event.position {
                return true;
            }
            let stored = match entry.place {
                Place::Stored(sequence) => Some(sequence),
                Place::New { index, replaces } => {
                    if let Some(write) = changes.writes.get_mut(index) {
                        *write = None;
                    }
                    replaces
                }
            };
            self.bytes -= entry.bytes;
            self.count -= 1;
            if let Some(sequence) = stored {
                // The same subject: the write replaces it.
                if until_ms.is_some() && entry.tenant == tenant && replaces.is_none() {
                    replaces = Some(sequence);
                } else {
                    changes.deletions.push(sequence);
                }
            }
            false
        });
        if let Some(until_ms) = until_ms {
            let mut below = tenants.first().cloned().unwrap_or_default();
            below.push('.');
            subject::push_word(&mut below, name.as_bytes());
            below.push_str(&format!(".{thing:032x}"));
            let bytes = below.len() + event.below.len() + event.body.len() + BYTES_PER_ENTRY;
            let place = Place::New { index: changes.writes.len(), replaces };
            let write =
                Write { thing, tenant, below, event: event.clone(), tenants: tenants.join(" "), until_ms };
            changes.writes.push(Some(write));
            let (position, at_ms) = (event.position, event.at_ms);
            self.add(
                thing,
                Entry { family, tenant, tenants: digests, position, at_ms, until_ms, bytes, place },
            );
        } else if entries.is_empty() {
            self.things.remove(&thing);
        }
    }

    /// A write was carried out at this position of the stream of kept events.
    pub(super) fn stored(&mut self, write: &Write, sequence: u64) {
        let entries = self.things.get_mut(&write.thing).into_iter().flatten();
        entries
            .filter(|entry| entry.tenant == write.tenant && entry.position == write.event.position)
            .for_each(|entry| entry.place = Place::Stored(sequence));
    }

    /// Forgets the thing of a write that cannot be carried out.
    pub(super) fn give_up(&mut self, index: usize, changes: &mut Changes) {
        let Some(write) = changes.writes.get_mut(index).and_then(Option::take) else { return };
        let is_it = |_: &Thing, entry: &Entry| {
            entry.tenant == write.tenant
                && matches!(entry.place, Place::New { index: own, .. } if own == index)
        };
        self.remove_if(is_it, changes);
    }

    /// Forgets things whose last event is older than they may be.
    pub(super) fn expire(&mut self, now_ms: u64, changes: &mut Changes) {
        self.remove_if(|_, entry| entry.until_ms <= now_ms, changes);
    }

    /// Forgets the things of families that begin anew: those kept up to the position that `begins` has for a family.
    pub(super) fn begin_anew(&mut self, begins: impl Fn(usize) -> u64, changes: &mut Changes) {
        self.remove_if(
            |_, entry| matches!(entry.place, Place::Stored(sequence) if sequence <= begins(entry.family)),
            changes,
        );
    }

    /// Forgets the things with the oldest events, until at most `max_bytes` are taken. Returns of what family and when
    /// the youngest of them was, in milliseconds since 1970.
    pub(super) fn trim(&mut self, max_bytes: usize, changes: &mut Changes) -> HashMap<usize, u64> {
        let mut trimmed = HashMap::new();
        if self.bytes <= max_bytes {
            return trimmed;
        }
        let mut ages: Vec<(u64, usize)> =
            self.things.values().flatten().map(|entry| (entry.at_ms, entry.bytes)).collect();
        ages.sort_unstable();
        let (mut excess, mut before) = (self.bytes - max_bytes, 0);
        for (at_ms, bytes) in ages {
            before = at_ms;
            excess = excess.saturating_sub(bytes);
            if excess == 0 {
                break;
            }
        }
        for entry in self.things.values().flatten().filter(|entry| entry.at_ms <= before) {
            let youngest = trimmed.entry(entry.family).or_default();
            *youngest = entry.at_ms.max(*youngest);
        }
        self.remove_if(|_, entry| entry.at_ms <= before, changes);
        trimmed
    }

    fn remove_if(&mut self, is_gone: impl Fn(&Thing, &Entry) -> bool, changes: &mut Changes) {
        let (bytes, count) = (&mut self.bytes, &mut self.count);
        self.things.retain(|thing, entries| {
            entries.retain(|entry| {
                if !is_gone(thing, entry) {
                    return true;
                }
                *bytes -= entry.bytes;
                *count -= 1;
                match entry.place {
                    Place::Stored(sequence) => changes.deletions.push(sequence),
                    Place::New { index, replaces } => {
                        changes.deletions.extend(replaces);
                        if let Some(write) = changes.writes.get_mut(index) {
                            *write = None;
                        }
                    }
                }
                false
            });
            !entries.is_empty()
        });
    }
}

/// A thing as an event names it.
struct Owner<'a> {
    family: usize,
    /// The family's name.
    name: &'a str,
    thing: Thing,
    /// The tenant below which it is kept, and the others that the event names.
    tenants: &'a [String],
}

fn thing(family: &str, kind: &str, index: usize, key: &[String]) -> Thing {
    let mut context = Context::new(&SHA256);
    let index = index.to_string();
    for part in [family, kind, &index].into_iter().chain(key.iter().map(String::as_str)) {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().first_chunk().map_or(0, |bytes| Thing::from_be_bytes(*bytes))
}

/// Accounts choose their realms, so the digest must not be one for which they find others with the same.
fn digest_of(tenant: &str) -> u64 {
    let digest = ring::digest::digest(&SHA256, tenant.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// The headers of an event that are kept with it.
pub(super) const KEPT_HEADERS: [&str; 5] =
    [wire::EXCHANGE, wire::ROUTING_KEY, wire::EVENT_NAME, wire::ZONE, wire::OWNER];

#[cfg(test)]
mod tests;
