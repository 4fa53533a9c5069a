//! Isolation and completeness: no event reaches a session to which it does not belong, and none that belongs is missing.
//!
//! A trial is an event and a binding of a session, both random: the account, the view, and the cursor with which the
//! session came are random, too. What the ingest and the edge do with them is compared with [`reference`], which
//! implements KAZOO's rules alone. All rules between the AMQP message and the bytes of the frame are the real ones.
//! NATS, the sockets, and the order of the steps in which a session resumes are those of [`world`].

mod bindings;
mod counts;
mod dice;
mod events;
mod reference;
mod session;
mod users;
mod world;

use std::{collections::BTreeMap, env, sync::Arc};

use blackhole_common::catalogue::Catalogue;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reference::Who;

use self::{
    counts::Counts,
    users::Things,
    world::{Ground, World},
};

/// How many there are, unless `ISOLATION_TRIALS` says otherwise.
const TRIALS: u64 = 1_000_000;

/// A number in the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

#[test]
fn sessions_get_exactly_the_events_that_kazoos_rules_give_them() {
    let (trials, seed) = (number("ISOLATION_TRIALS").unwrap_or(TRIALS), number("ISOLATION_SEED"));
    let seed = seed.unwrap_or_else(rand::random);
    let ground = Ground::new();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut counts = Counts::default();
    while counts.trials < trials {
        let world = World::play(&ground, &mut rng);
        world.check(&mut counts).unwrap_or_else(|error| {
            panic!("after {counts}: {error}; to repeat it, set ISOLATION_SEED={seed}")
        });
    }
    println!("{counts}; seed {seed}");
    assert!(counts.is_varied(), "the trials do not test everything: {counts}");
}

/// The test above is not vacuous: it tries every form of binding and every kind of event.
#[test]
fn the_reference_covers_all_families() {
    let everybody = [
        Who::Account {
            id: reference::IDS[0].into(),
            realm: Some("harbour.example.net".into()),
            token_id: "t".into(),
            token_account: reference::IDS[0].into(),
            superduper: false,
            user: None,
        },
        Who::All { token_id: "t".into() },
    ];
    let catalogue = Arc::new(Catalogue::load(None).unwrap());
    let mut rng = StdRng::seed_from_u64(1);
    let events: Vec<_> = (0..6000).map(|_| events::event(&everybody, rng.random(), rng.random())).collect();
    for family in catalogue.families() {
        for event in &family.event {
            let brought = events.iter().filter(|happening| {
                catalogue.event(happening.exchange, &happening.key).is_some_and(|kind| kind.key == event.key)
            });
            let brought = brought.count();
            if event.key.as_str().contains(".fax.") {
                // The catalogue finds a fax document as a document.
                assert_eq!(brought, 0, "{}", event.key.as_str());
                let faxes = events.iter().filter(|event| event.key.split('.').nth(2) == Some("fax"));
                assert!(faxes.filter(|event| event.exchange == "configuration").count() >= 10);
            } else {
                assert!(brought >= 10, "{}: {brought}", event.key.as_str());
            }
        }
    }
    // A user gets some events of all families that say whose they are.
    let things = Things {
        documents: users::DOCUMENTS.iter().chain(reference::WORDS).map(|&id| id.to_owned()).collect(),
        phones: vec!["1001".into()],
    };
    let mut user = everybody[0].clone();
    if let Who::Account { user, .. } = &mut user {
        *user = Some(things);
    }
    let families = [14, 14, 10];
    for (who, families) in everybody.iter().chain([&user]).zip(families) {
        let mut got = BTreeMap::new();
        for _ in 0..4000 {
            let asked = bindings::asked(who, rng.random());
            if asked.patterns.is_none() || !asked.allowed {
                continue;
            }
            let count =
                events.iter().filter(|event| reference::gets(who, &asked, event) == Some(true)).count();
            let form = asked.binding.split('.').next().unwrap().to_owned();
            *got.entry(form).or_insert(0) += count;
        }
        assert_eq!(got.len(), families, "{got:?}");
        assert!(got.values().all(|count| *count > 0), "{got:?}");
    }
}
