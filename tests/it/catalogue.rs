//! Which session gets which event, for the whole catalogue, compared with a reference implementation.
//!
//! [`subject`](amqp_ingest::subject) determines where an event is published, [`binding`] what a session subscribes to.
//! `reference` implements KAZOO's rules alone: AMQP patterns, AMQP matching, and the owner of an event. It knows no
//! subjects, tenants or forms. No broker is involved.

mod reference;

use std::sync::Arc;

use blackhole_common::{
    catalogue::Catalogue,
    wire::{Access, Bearer},
};
use bytes::Bytes;
use proptest::{prelude::*, strategy::ValueTree};
use reference::{Asked, Happening, Who};
use ws_edge::access::{binding, families::Families};

const ROOT: &str = "ev";

/// NATS matching: `*` is one word, `>` at the end one or more.
fn nats_matches(pattern: &str, subject: &str) -> bool {
    let (pattern, subject): (Vec<&str>, Vec<&str>) =
        (pattern.split('.').collect(), subject.split('.').collect());
    let same = |(wanted, word): (&&str, &&str)| *wanted == "*" || wanted == word;
    match pattern.split_last() {
        Some((&">", head)) => subject.len() > head.len() && head.iter().zip(&subject).all(same),
        _ => pattern.len() == subject.len() && pattern.iter().zip(&subject).all(same),
    }
}

/// How often a session of `who` with the binding `asked` gets the event; `None` if the binding is refused.
fn times(catalogue: &Catalogue, who: &Who, asked: &Asked, event: &Happening) -> Option<usize> {
    let (account_id, superduper_admin, access) = match who {
        Who::Account { id, realm, .. } => (
            id.clone(),
            false,
            Access::Account { account_id: id.clone(), realm: realm.clone(), realm_since: None },
        ),
        Who::All { .. } => ("top".to_owned(), true, Access::All),
    };
    let token_id = Some(who.token_id().to_owned());
    let bearer = Bearer { account_id, expires_at: 9, superduper_admin, token_id };
    let families = Families::new(catalogue, Arc::default());
    let asked = binding::parse(catalogue, &families, &asked.binding, &bearer).ok()?;
    let listens = asked.resolve(ROOT, &access).ok()?.subjects;
    let arrives = catalogue
        .amqp_bindings()
        .iter()
        .any(|bound| bound.exchange == event.exchange && reference::amqp_matches(&bound.pattern, &event.key));
    let body = Bytes::from(event.body.to_string());
    let subject = amqp_ingest::subject(catalogue, ROOT, event.exchange, &event.key, &body);
    let subject = subject.filter(|_| arrives);
    Some(
        subject.map_or(0, |subject| listens.iter().filter(|pattern| nats_matches(pattern, &subject)).count()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn sessions_get_exactly_the_events_that_kazoos_rules_give_them(
        everybody in prop::collection::vec(reference::who(), 1..5),
        asked in prop::collection::vec(any::<[u8; 4]>(), 1..12),
        events in prop::collection::vec(any::<[u8; 6]>(), 1..12),
    ) {
        let catalogue = Catalogue::load(None).unwrap();
        let events: Vec<Happening> = events.iter().map(|dice| reference::event(&everybody, *dice)).collect();
        for who in &everybody {
            for asked in asked.iter().map(|dice| reference::asked(who, *dice)) {
                for event in &events {
                    let got = times(&catalogue, who, &asked, event);
                    let should = asked.allowed.then(|| usize::from(reference::gets(who, &asked, event)));
                    prop_assert_eq!(got, should, "{:?} with {:?} and {:?}", who, &asked, event);
                }
            }
        }
    }
}

/// The property above is not vacuous: it tries every form of binding and every kind of event.
#[test]
fn the_reference_covers_all_families() {
    let everybody = [
        Who::Account {
            id: reference::IDS[0].into(),
            realm: Some("harbour.example.net".into()),
            token_id: "t".into(),
        },
        Who::All { token_id: "t".into() },
    ];
    let catalogue = Catalogue::load(None).unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut dice = || any::<[u8; 6]>().new_tree(&mut runner).unwrap().current();
    let events: Vec<Happening> = (0..4000).map(|_| reference::event(&everybody, dice())).collect();
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
    for who in &everybody {
        let mut got = std::collections::BTreeMap::new();
        for _ in 0..4000 {
            let [a, b, c, d, ..] = dice();
            let asked = reference::asked(who, [a, b, c, d]);
            let count = events.iter().filter(|event| reference::gets(who, &asked, event)).count();
            let form = asked.binding.split('.').next().unwrap().to_owned();
            *got.entry(form).or_insert(0) += count;
        }
        assert_eq!(got.len(), 14, "{got:?}");
        assert!(got.values().all(|count| *count > 0), "{got:?}");
    }
}
