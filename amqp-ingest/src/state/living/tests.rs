use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Two accounts with realms, some of whose events name only the realm.
const OWNERS: [(&str, &str); 2] = [("acc1", "one.example"), ("acc2", "two.example")];

#[derive(Clone, Copy, Debug)]
struct Told {
    owner: usize,
    only_realm: bool,
    call: u8,
    lives: bool,
}

fn event(position: u64, told: Told) -> StreamEvent {
    let (account, realm) = OWNERS[told.owner];
    let name = if told.lives { "CHANNEL_ANSWER" } else { "CHANNEL_DESTROY" };
    let mut vars = json!({ "Realm": realm, "Account-ID": account });
    let mut tenant = account.to_owned();
    if told.only_realm {
        vars = json!({ "Realm": realm });
        tenant = Tenant::realm(realm).to_string();
    }
    // Anybody may call anybody.
    let body = json!({ "Event-Name": name, "Custom-Channel-Vars": vars, "To": "x@one.example" });
    StreamEvent {
        position,
        below: format!("{tenant}.call.{name}.{}", told.call),
        at_ms: position,
        headers: vec![(wire::EVENT_NAME, name.to_owned())],
        body: body.to_string().into(),
    }
}

/// The stream of kept events: subject, its position there, and what it says.
#[derive(Debug, Default)]
struct Server {
    kept: BTreeMap<String, (u64, Write)>,
    last: u64,
    noted: u64,
}

impl Server {
    /// Carries out at most `limit` operations, in the order of the keeper. Returns whether that was all.
    fn save(&mut self, living: &mut Living, changes: &Changes, position: u64, limit: usize) -> bool {
        let mut left = limit;
        let mut may_go_on = || {
            let may = left > 0;
            left = left.saturating_sub(1);
            may
        };
        for (_, write) in changes.writes() {
            if !may_go_on() {
                return false;
            }
            self.last += 1;
            self.kept.insert(write.below.clone(), (self.last, write.clone()));
            living.stored(write, self.last);
        }
        for sequence in &changes.deletions {
            if !may_go_on() {
                return false;
            }
            self.kept.retain(|_, (own, _)| own != sequence);
        }
        if !may_go_on() {
            return false;
        }
        self.last += 1;
        self.noted = position;
        true
    }

    fn load(&self) -> Living {
        let mut living = Living::default();
        for (sequence, write) in self.kept.values() {
            let tenant = write.below.split('.').next().unwrap();
            living.load(Stored {
                family: 0,
                thing: write.thing,
                tenant: tenant.to_owned(),
                tenants: write.tenants.clone(),
                position: write.event.position,
                at_ms: write.event.at_ms,
                until_ms: write.until_ms,
                bytes: 0,
                sequence: *sequence,
            });
        }
        living
    }

    /// What a client believes that reads now, and then gets all of `events` after the noted position.
    fn believed(&self, events: &[Told]) -> BTreeMap<(usize, u8), u64> {
        let mut believed = BTreeMap::new();
        for (_, write) in self.kept.values().filter(|(_, write)| write.event.position <= self.noted) {
            let told = events[write.event.position as usize - 1];
            let earlier = believed.insert((told.owner, told.call), write.event.position);
            assert_eq!(earlier, None, "a thing is kept once");
        }
        for (position, told) in (1..).zip(events).skip(self.noted as usize) {
            tell(&mut believed, position, *told);
        }
        believed
    }
}

fn tell(living: &mut BTreeMap<(usize, u8), u64>, position: u64, told: Told) {
    if told.lives {
        living.insert((told.owner, told.call), position);
    } else {
        living.remove(&(told.owner, told.call));
    }
}

fn any_told() -> impl Strategy<Value = Told> {
    (0..2_usize, any::<bool>(), 0..4_u8, prop::bool::weighted(0.7))
        .prop_map(|(owner, only_realm, call, lives)| Told { owner, only_realm, call, lives })
}

proptest! {
    #[test]
    fn whoever_is_killed_when_a_reader_learns_what_lives(
        events in prop::collection::vec(any_told(), 1..60),
        batches in prop::collection::vec((1..20_usize, 0..30_usize, any::<bool>()), 1..40),
    ) {
        let catalogue = Catalogue::load(None).unwrap();
        let (mut server, mut living) = (Server::default(), Living::default());
        let mut truth = BTreeMap::new();
        (1..).zip(&events).for_each(|(position, told)| tell(&mut truth, position, *told));
        for (size, limit, dies) in batches {
            let from = server.noted;
            let to = (from + size as u64).min(events.len() as u64);
            let mut changes = Changes::default();
            // What is known already is read again, and changes nothing.
            for position in from.saturating_sub(3) + 1..=to {
                living.apply(&catalogue, &event(position, events[position as usize - 1]), position <= from, &mut changes);
            }
            let limit = if dies { limit } else { usize::MAX };
            if !server.save(&mut living, &changes, to, limit) {
                // Another one goes on.
                living = server.load();
            }
            prop_assert_eq!(&server.believed(&events), &truth, "noted {}", server.noted);
        }
    }
}

#[test]
fn what_a_killed_server_has_again_is_deleted_again() {
    let catalogue = Catalogue::load(None).unwrap();
    let told = |lives| Told { owner: 0, only_realm: false, call: 1, lives };
    let (mut server, mut living) = (Server::default(), Living::default());
    let mut changes = Changes::default();
    living.apply(&catalogue, &event(1, told(true)), false, &mut changes);
    assert!(server.save(&mut living, &changes, 1, usize::MAX));
    // The server forgot that it was deleted after the end at position 2.
    let mut living = server.load();
    let mut changes = Changes::default();
    living.apply(&catalogue, &event(1, told(true)), true, &mut changes);
    assert!(changes.is_empty());
    living.apply(&catalogue, &event(2, told(false)), true, &mut changes);
    assert_eq!((changes.deletions, living.count()), (vec![1], 0));
}

#[test]
fn old_things_are_forgotten_and_too_many() {
    let catalogue = Catalogue::load(None).unwrap();
    let (mut server, mut living) = (Server::default(), Living::default());
    let told = |call| Told { owner: 0, only_realm: false, call, lives: true };
    let mut changes = Changes::default();
    (1..=4).for_each(|n| living.apply(&catalogue, &event(n, told(n as u8)), false, &mut changes));
    assert!(server.save(&mut living, &changes, 4, usize::MAX));
    let mut changes = Changes::default();
    let day = 86_400_000;
    living.expire(day + 1, &mut changes);
    assert_eq!((changes.deletions.len(), living.count()), (1, 3));
    let trimmed = living.trim(living.bytes - 1, &mut changes);
    assert_eq!(trimmed, HashMap::from([(0, 2)]), "the oldest goes, and its family's time is told");
    assert_eq!((changes.deletions.len(), living.count()), (2, 2));
    living.begin_anew(|family| if family == 0 { 3 } else { 0 }, &mut changes);
    assert_eq!((changes.deletions, living.count()), (vec![1, 2, 3], 1));
}
