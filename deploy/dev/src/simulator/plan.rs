//! The plan of a simulation: scenes that start at random times, and their events in chronological order.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::accounts::Account;
use super::script::{Publication, Script};
use super::{calls, conferences, documents, queues, voicemail};

/// Every eighth scene is a conference. The other constants likewise; the remaining scenes are calls.
const CONFERENCE_INTERVAL: u64 = 8;
const EDITS_INTERVAL: u64 = 5;
const FAX_INTERVAL: u64 = 11;
const VOICEMAIL_INTERVAL: u64 = 9;
const QUEUE_INTERVAL: u64 = 13;

/// The input of a plan. The same settings give the same plan.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The seed of the random numbers.
    pub seed: u64,
    /// Calls that begin per second, on average. With 0 the plan is empty.
    pub calls_per_second: f64,
    /// The time of day at the start, for the timestamps in the events.
    pub start: SystemTime,
    /// The accounts that the events belong to. Without accounts the plan is empty.
    pub accounts: Vec<Account>,
}

/// An infinite sequence of publications in chronological order.
#[derive(Debug)]
pub struct Plan {
    settings: Settings,
    rng: StdRng,
    scenes: u64,
    next_scene: Duration,
    /// Events of started scenes. The number keeps events with the same time in the order they were written.
    ahead: BTreeMap<(Duration, u64), Publication>,
    written: u64,
}

impl Plan {
    /// A plan at its start.
    pub fn new(settings: Settings) -> Self {
        let rng = StdRng::seed_from_u64(settings.seed);
        Self { settings, rng, scenes: 0, next_scene: Duration::ZERO, ahead: BTreeMap::new(), written: 0 }
    }

    fn begin_scene(&mut self) {
        let at = self.rng.random_range(0..self.settings.accounts.len());
        let Some(account) = self.settings.accounts.get(at) else { return };
        let mut script = Script::new(account, &mut self.rng, self.settings.start, self.next_scene);
        // Each kind occurs among the first scenes, so that a short run shows everything.
        match self.scenes {
            n if n % CONFERENCE_INTERVAL == 2 => conferences::conference(&mut script),
            n if n % EDITS_INTERVAL == 1 => documents::user_edits(&mut script),
            n if n % FAX_INTERVAL == 4 => documents::fax(&mut script),
            n if n % VOICEMAIL_INTERVAL == 5 => voicemail::message(&mut script),
            n if n % QUEUE_INTERVAL == 7 => queues::caller(&mut script),
            _ => calls::call(&mut script),
        }
        for event in script.finish() {
            self.ahead.insert((event.at, self.written), event);
            self.written += 1;
        }
        self.scenes += 1;
        // Scenes start independently of each other, with exponentially distributed gaps. Scenes that are not calls come
        // on top of the requested rate. The intervals are pairwise coprime, so each kind takes its share of every
        // other.
        let others = [CONFERENCE_INTERVAL, EDITS_INTERVAL, FAX_INTERVAL, VOICEMAIL_INTERVAL, QUEUE_INTERVAL];
        let calls: f64 = others.iter().map(|interval| 1.0 - 1.0 / *interval as f64).product();
        let mean = calls / self.settings.calls_per_second;
        let gap = -mean * (1.0 - self.rng.random::<f64>()).ln();
        self.next_scene += Duration::from_secs_f64(gap);
    }
}

impl Iterator for Plan {
    type Item = Publication;

    fn next(&mut self) -> Option<Publication> {
        if self.settings.calls_per_second <= 0.0 || self.settings.accounts.is_empty() {
            return None;
        }
        loop {
            let first = self.ahead.first_key_value().map(|((at, _), _)| *at);
            if first.is_some_and(|at| at <= self.next_scene) {
                return self.ahead.pop_first().map(|(_, event)| event);
            }
            self.begin_scene();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap, HashSet};
    use std::time::UNIX_EPOCH;

    use blackhole_common::catalogue::Catalogue;
    use serde_json::Value;

    use super::*;
    use crate::simulator::publisher::EXCHANGES;
    use crate::simulator::sample;

    fn plan(seed: u64, calls_per_second: f64) -> Plan {
        let start = UNIX_EPOCH + Duration::from_secs(1_795_000_000);
        Plan::new(Settings { seed, calls_per_second, start, accounts: sample().unwrap() })
    }

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let first: Vec<_> = plan(1, 5.0).take(500).collect();
        assert_eq!(first, plan(1, 5.0).take(500).collect::<Vec<_>>());
        assert_ne!(first, plan(2, 5.0).take(500).collect::<Vec<_>>());
        assert!(first.is_sorted_by_key(|event| event.at));
    }

    #[test]
    fn a_rate_of_0_gives_an_empty_plan() {
        assert_eq!(plan(1, 0.0).next(), None);
    }

    #[test]
    fn calls_begin_at_the_requested_rate() {
        let until = Duration::from_secs(100);
        let events = plan(3, 20.0).take_while(|event| event.at < until);
        let legs = events.filter(|event| event.name == "CHANNEL_CREATE").count();
        assert!((1800..2200).contains(&(legs / 2)), "{legs} legs");
    }

    #[test]
    fn every_exchange_is_used_in_the_first_twenty_seconds() {
        for seed in 0..20 {
            let events = plan(seed, 1.0).take_while(|event| event.at < Duration::from_secs(20));
            let exchanges: BTreeSet<_> = events.map(|event| event.exchange).collect();
            // Not every conversation is streamed.
            let rest = EXCHANGES.iter().filter(|exchange| !exchanges.contains(*exchange));
            assert!(rest.clone().all(|exchange| *exchange == "pivot"), "seed {seed}: {exchanges:?}");
        }
    }

    /// Every kind of event in the catalogue, and no other.
    #[test]
    fn every_kind_of_event_in_the_catalogue_is_published() {
        let catalogue = Catalogue::load(None).unwrap();
        let mut seen = BTreeSet::new();
        for event in plan(6, 5.0).take(20_000) {
            let kind = catalogue.event(event.exchange, &event.routing_key);
            let kind = kind.unwrap_or_else(|| panic!("{} {}", event.exchange, event.routing_key));
            seen.insert(kind.key.as_str());
            if event.routing_key.contains(".fax.") {
                seen.insert("{action}.{database}.fax.{id}");
            }
        }
        let kinds = catalogue.families().iter().flat_map(|family| &family.event);
        assert_eq!(seen, kinds.map(|kind| kind.key.as_str()).collect());
    }

    #[test]
    fn first_events_of_inbound_calls_and_presence_name_only_the_realm() {
        let accounts: HashMap<_, _> =
            sample().unwrap().into_iter().map(|account| (account.id.clone(), account.realm)).collect();
        let (mut calls, mut phones) = (0, 0);
        for event in plan(7, 5.0).take(20_000) {
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            let realm = accounts[&event.account_id].as_str();
            match event.exchange {
                "callevt" if body["Custom-Channel-Vars"].get("Account-ID").is_none() => {
                    assert_eq!(
                        (event.name, &body["Custom-Channel-Vars"]["Realm"]),
                        ("CHANNEL_CREATE", &realm.into())
                    );
                    calls += 1;
                }
                "presence" => {
                    let word = event.routing_key.split('.').nth(1).unwrap();
                    assert_eq!(word, crate::simulator::encode_word(realm));
                    phones += 1;
                }
                _ => {}
            }
        }
        assert!(calls > 100 && phones > 1000, "{calls} {phones}");
    }

    #[test]
    fn bodies_have_realistic_sizes_unique_ids_and_name_their_account() {
        let mut ids = HashSet::new();
        for event in plan(4, 10.0).take(3000) {
            let body: Value = serde_json::from_slice(&event.body).unwrap();
            assert!(ids.insert(body["Msg-ID"].as_str().unwrap().to_owned()), "duplicate Msg-ID");
            assert_eq!(body["Event-Name"], event.name);
            let account = body.get("Account-ID").or(body["Custom-Channel-Vars"].get("Account-ID"));
            let by_realm = account.is_none() && matches!(event.exchange, "callevt" | "presence");
            assert!(by_realm || account == Some(&event.account_id.as_str().into()), "{}", event.routing_key);
            let large =
                !by_realm && event.exchange == "callevt" || event.routing_key.starts_with("conference.event");
            let min = if large { 1000 } else { 400 };
            assert!((min..=1700).contains(&event.body.len()), "{}: {}", event.routing_key, event.body.len());
        }
    }

    #[test]
    fn the_first_event_of_a_leg_is_its_creation_and_the_last_its_end() {
        let mut legs: HashMap<String, Vec<&str>> = HashMap::new();
        let mut plan = plan(5, 5.0);
        let mut names = HashSet::new();
        for event in plan.by_ref().take(20_000).filter(|event| event.exchange == "callevt") {
            assert_eq!(event.routing_key.split('.').count(), 3, "{}", event.routing_key);
            let id = event.routing_key.rsplit('.').next().unwrap().to_owned();
            legs.entry(id).or_default().push(event.name);
            names.insert(event.name);
        }
        assert_eq!(names.len(), 9, "{names:?}");
        let whole: Vec<_> = legs.values().filter(|names| names.last() == Some(&"CHANNEL_DESTROY")).collect();
        assert!(whole.len() > 1000);
        for names in legs.values() {
            assert_eq!(names[0], "CHANNEL_CREATE");
            assert!(names[..names.len() - 1].iter().all(|name| *name != "CHANNEL_DESTROY"));
        }
    }
}
