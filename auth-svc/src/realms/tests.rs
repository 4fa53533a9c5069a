use super::*;

/// Realms with these owners, as a source tells them.
fn realms(owners: &[(&str, &str)]) -> Realms {
    let realms = Realms::default();
    realms.replace(owners.iter().copied());
    realms
}

/// What the bucket has after `realms` was stored: every shard, by its index.
fn bucket(realms: &Realms) -> Vec<Option<Shard>> {
    let parse = |(_, shard): (usize, Shard)| Shard::parse(shard.to_text().as_bytes(), 1);
    realms.changed_shards().into_iter().map(parse).collect()
}

/// A later auth-svc, which finds `bucket`, and has these owners.
fn restarted(bucket: &[Option<Shard>], owners: &[(&str, &str)]) -> Realms {
    let realms = realms(owners);
    realms.begin(bucket);
    realms
}

#[test]
fn who_has_a_realm_at_the_first_start_may_have_had_it_always() {
    let realms = realms(&[("one.example.com", "a")]);
    realms.begin(&vec![None; SHARDS]);
    assert_eq!(realms.since_ms("one.example.com", "a"), None);
    assert_eq!(realms.since_ms("ONE.example.com", "a"), None, "realms have no case");
}

#[test]
fn who_gets_a_realm_has_it_since_then() {
    let realms = realms(&[("one", "a"), ("two", "b")]);
    let before = unix_millis();
    realms.replace([("three", "a"), ("one", "b")].into_iter());
    let since = realms.since_ms("one", "b").unwrap();
    assert!((before..=unix_millis()).contains(&since));
    assert!(realms.since_ms("three", "a").is_some(), "nobody had it before");
    realms.replace([("two", "a"), ("one", "b")].into_iter());
    assert_eq!(realms.since_ms("one", "b"), Some(since), "unchanged");
    assert!(realms.since_ms("two", "a").is_some(), "another had it once");
}

#[test]
fn an_account_that_a_source_has_not_told_of_has_its_realm_since_now() {
    let realms = realms(&[("one", "a")]);
    let before = unix_millis();
    assert!(realms.since_ms("one", "b").unwrap() >= before);
    assert!(realms.since_ms("two", "a").unwrap() >= before);
}

#[test]
fn a_restart_knows_what_did_not_change() {
    let first = realms(&[("one", "a"), ("two", "b")]);
    first.replace([("one", "a"), ("three", "b")].into_iter());
    let since = first.since_ms("three", "b");
    assert!(since.is_some());
    let later = restarted(&bucket(&first), &[("one", "a"), ("three", "b")]);
    assert_eq!(later.since_ms("one", "a"), None);
    assert_eq!(later.since_ms("three", "b"), since);
    assert!(later.changed_shards().is_empty(), "there is nothing to store");
}

#[test]
fn a_realm_that_passed_on_while_auth_svc_was_down_is_withheld_from_its_start_on() {
    let bucket = bucket(&realms(&[("one", "a"), ("two", "b")]));
    let before = unix_millis();
    let later = restarted(&bucket, &[("two", "a"), ("new", "c")]);
    assert!(later.since_ms("two", "a").unwrap() >= before);
    assert!(
        later.since_ms("new", "c").unwrap() >= before,
        "it may have been another's while auth-svc was down"
    );
    assert!(!later.changed_shards().is_empty());
}

#[test]
fn a_first_start_that_was_interrupted_is_not_trusted() {
    let mut bucket = bucket(&realms(&[("one", "a"), ("two", "b")]));
    let [one, two] = ["one", "two"].map(|realm| index(digest_of_realm(realm)));
    for (index, shard) in bucket.iter_mut().enumerate() {
        *shard = shard.take().filter(|_| index == one);
    }
    assert_ne!(one, two);
    let later = restarted(&bucket, &[("one", "a"), ("two", "a")]);
    assert_eq!(later.since_ms("one", "a"), None);
    assert!(later.since_ms("two", "a").is_some(), "who had it was not stored");
}

#[test]
fn what_another_instance_has_noticed_counts() {
    let [first, second] = [(); 2].map(|()| realms(&[("one", "a"), ("two", "b")]));
    // Only the first one's file went from a to b and back.
    first.replace([("one", "b"), ("two", "b")].into_iter());
    first.replace([("one", "a"), ("two", "a")].into_iter());
    for (index, shard) in first.changed_shards() {
        second.merge(index, &shard);
    }
    assert_eq!(second.since_ms("one", "a"), first.since_ms("one", "a"));
    assert!(second.since_ms("one", "a").is_some());
    // Its own file still says so.
    assert_eq!(second.since_ms("two", "b"), None);
}

#[test]
fn a_bucket_that_somebody_has_emptied_is_filled_again() {
    let realms = realms(&[("one", "a")]);
    for (index, shard) in realms.changed_shards() {
        realms.stored(index, &shard, 3);
    }
    assert!(realms.changed_shards().is_empty());
    realms.forgotten();
    let again = realms.changed_shards();
    assert!(again.len() == SHARDS && again.iter().all(|(_, shard)| shard.revision == 0));
}

#[test]
fn what_cannot_be_read_is_withheld() {
    let realms = realms(&[("one", "a")]);
    let before = unix_millis();
    realms.distrust();
    assert!(realms.since_ms("one", "a").unwrap() >= before);
}

#[test]
fn a_change_while_a_shard_is_being_stored_is_stored_afterwards() {
    let realms = realms(&[("one", "a")]);
    let (index, shard) = realms
        .changed_shards()
        .into_iter()
        .find(|(_, shard)| shard.owner(digest_of("one")).is_some())
        .unwrap();
    realms.replace([("one", "b")].into_iter());
    realms.stored(index, &shard, 7);
    assert!(realms.changed_shards().iter().any(|(changed, shard)| *changed == index && shard.revision == 7));
}

#[test]
fn the_form_in_the_bucket_is_stable() {
    let mut shard = Shard::default();
    shard.replace(vec![(digest_of("one"), digest_of("a"))], 7);
    let text = "dpLDrTVAu4A8Ags67mbNiA ypeBEsobvcr6wjGzmiPcTQ 0\n";
    assert_eq!(shard.to_text(), text);
    let read = Shard::parse(text.as_bytes(), 1).unwrap();
    assert_eq!(read.owner(digest_of("one")), shard.owner(digest_of("one")));
    assert_eq!(Shard::parse(b"", 1).unwrap().to_text(), "", "a key that was deleted");
    for foreign in ["x", "a b c\n", "dpLDrTVAu4A8Ags67mbNiA ypeBEsobvcr6wjGzmiPcTQ -1\n"] {
        assert_eq!(Shard::parse(foreign.as_bytes(), 1), None, "{foreign}");
    }
}
