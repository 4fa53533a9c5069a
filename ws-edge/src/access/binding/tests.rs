use blackhole_common::subject::{push_key, subject_matches};
use proptest::prelude::*;

use super::*;

const ACC: &str = "4b31dd1d32ce6d249897c06332375d65";

fn catalogue() -> Catalogue {
    Catalogue::load(None).unwrap()
}

fn families() -> Families {
    Families::new(&catalogue(), Default::default())
}

fn account() -> Access {
    Access::Account { account_id: ACC.into(), realm: Some("kid.example.com".into()), realm_since_ms: None }
}

fn bearer(superduper_admin: bool) -> Bearer {
    let token_id = Some("t.1".to_owned());
    Bearer { account_id: ACC.into(), expires_at: 9, superduper_admin, token_id }
}

fn resolved(binding: &str, access: &Access) -> Result<ResolvedBinding, String> {
    let superduper = *access == Access::All;
    parse(&catalogue(), &families(), binding, &bearer(superduper))
        .and_then(|parsed| parsed.resolve("ev", access))
        .map_err(|error| error.to_string())
}

fn subjects(binding: &str, access: &Access) -> Vec<String> {
    resolved(binding, access).unwrap().subjects
}

#[test]
fn bindings_become_subjects_below_the_account() {
    let realm = "@kid=2Eexample=2Ecom";
    for (binding, expected) in [
        (
            "call.CHANNEL_CREATE.*",
            vec![format!("ev.{ACC}.call.CHANNEL_CREATE.*"), format!("ev.{realm}.call.CHANNEL_CREATE.*")],
        ),
        ("call.*.a@b", vec![format!("ev.{ACC}.call.*.a%40b"), format!("ev.{realm}.call.*.a%40b")]),
        ("conference.event.C.*", vec![format!("ev.{ACC}.conference.event.*.{ACC}.C.*")]),
        ("conference.event.add-member.C.x", vec![format!("ev.{ACC}.conference.event.add-member.{ACC}.C.x")]),
        ("conference.event.C.*.add-member", vec![format!("ev.{ACC}.conference.event.add-member.{ACC}.C.*")]),
        ("conference.event.C.*.*", vec![format!("ev.{ACC}.conference.event.*.{ACC}.C.*")]),
        ("conference.event.lock.C.*", vec![format!("ev.{ACC}.conference.event.lock.{ACC}.C.*")]),
        (
            "qubicle.queue",
            vec![format!("ev.{ACC}.qubicle.queue.{ACC}.*.*"), format!("ev.{ACC}.qubicle.queue.{ACC}.*")],
        ),
        ("qubicle.session.s.*", vec![format!("ev.{ACC}.qubicle.session.{ACC}.s.*")]),
        ("conference.command.C", vec![format!("ev.{ACC}.conference.command.C")]),
        ("doc_created.*.user.*", vec![format!("ev.{ACC}.doc_created.*.user.*")]),
        ("object.doc_edited.user", vec![format!("ev.{ACC}.doc_edited.*.user.*")]),
        (
            "object.*.user",
            vec![
                format!("ev.{ACC}.doc_created.*.user.*"),
                format!("ev.{ACC}.doc_edited.*.user.*"),
                format!("ev.{ACC}.doc_deleted.*.user.*"),
            ],
        ),
        ("fax.status.*", vec![format!("ev.{ACC}.fax.status.{ACC}.*")]),
        (
            "doc_created.*.user.#",
            vec![format!("ev.{ACC}.doc_created.*.user"), format!("ev.{ACC}.doc_created.*.user.>")],
        ),
    ] {
        assert_eq!(subjects(binding, &account()), expected, "{binding}");
    }
}

#[test]
fn a_superduper_admin_sees_every_tenant() {
    assert_eq!(subjects("call.*.*", &Access::All), ["ev.*.call.*.*"]);
    assert_eq!(subjects("conference.event.*.*.*", &Access::All), ["ev.*.conference.event.*.*.*.*"]);
    let event = "conference.event.add-member.*.*";
    assert_eq!(subjects(event, &Access::All), ["ev.*.conference.event.add-member.*.*.*"]);
    let documents = "doc_created.accounts.account.*";
    assert_eq!(subjects(documents, &Access::All), ["ev.*.doc_created.accounts.account.*"]);
}

#[test]
fn subscription_keys_are_amqp_patterns() {
    let key = |binding| resolved(binding, &account()).unwrap().subscription_key;
    assert_eq!(key("call.*.*"), format!("call.{ACC}.*.*"));
    assert_eq!(key("call.#"), format!("call.{ACC}.*.*"));
    assert_eq!(key("conference.event.C.*"), format!("conference.event.*.{ACC}.C.*"));
    assert_eq!(key("object.*.user"), "*.*.user.*");
    assert_eq!(resolved("call.*.*", &Access::All).unwrap().subscription_key, "call.*.*.*");
}

#[test]
fn refusals_have_the_texts_that_clients_match_on() {
    for (binding, expected) in [
        ("", "no available subscriptions to requested binding"),
        ("nothing.here", "no available subscriptions to requested binding"),
        ("#", "no available subscriptions to requested binding"),
        (">", "no available subscriptions to requested binding"),
        ("*.>", "no available subscriptions to requested binding"),
        ("$JS.API.STREAM.DELETE.BLACKHOLE_V1", "no available subscriptions to requested binding"),
        ("call.CHANNEL_PARTY.*", "event CHANNEL_PARTY not supported"),
        ("call.>.*", "event > not supported"),
        ("call.CHANNEL_CREATE", "invalid format for call subscription : call.CHANNEL_CREATE"),
        ("call.CHANNEL_CREATE.a.b", "invalid format for call subscription : call.CHANNEL_CREATE.a.b"),
        ("call.CHANNEL_CREATE.", "invalid format for call subscription : call.CHANNEL_CREATE."),
        ("call.CHANNEL_CREATE.a\nb", "invalid format for call subscription : call.CHANNEL_CREATE.a\nb"),
        ("call.#.x", "invalid binding : `#` is only possible as the last word"),
        ("conference.event.*.*", "ConferenceId required"),
        ("conference.event.*.*.*", "ConferenceId required"),
        ("conference.event.#", "ConferenceId required"),
        ("conference.command.*", "ConferenceId required"),
        ("conference.chat.x", "invalid format for conference subscription : conference.chat.x"),
        ("object.doc_read.user", "action doc_read not supported"),
        ("object.doc_created.secret", "type secret not supported"),
        ("doc_created.*.secret.*", "type secret not supported"),
        ("object", "invalid format for object subscription : object"),
        ("presence.nope.1", "event nope not supported"),
        ("presence.dialog", "invalid format for presence subscription : presence.dialog"),
        ("conference.event.C.*.dance", "Unsupported conference event dance"),
        ("conference.event.*.*.add-member", "ConferenceId required"),
        ("conference.event.add-member.*.*", "ConferenceId required"),
        ("qubicle.agent", "kind agent not supported"),
        (
            "doc_created.account%2F00%2F31%2Fdd1d32ce6d249897c06332375d65.user.*",
            "invalid binding : the database is not one of the account's",
        ),
        ("doc_created.accounts.account.*", "invalid binding : the database is not one of the account's"),
        ("stream.pause.x", "event pause not supported"),
        ("qubicle.agent.x.y", "kind agent not supported"),
        ("fax.state.x", "invalid format for fax subscription : fax.state.x"),
    ] {
        assert_eq!(resolved(binding, &account()).unwrap_err(), expected, "{binding:?}");
    }
    let long = format!("call.CHANNEL_CREATE.{}", "x".repeat(300));
    assert_eq!(resolved(&long, &account()).unwrap_err(), "binding is longer than 255 bytes");
}

#[test]
fn words_are_encoded_as_kazoo_does() {
    for (word, expected) in [
        ("plain-id_~", "plain-id_~"),
        ("a@10.0", "a%4010%2E0"),
        ("a%4010%2E0", "a%4010%2E0"),
        ("a%4010%2e0", "a%4010%2E0"),
        ("+1415", "%2B1415"),
        ("two words", "two+words"),
        ("two+words%2E", "two+words%2E"),
        ("100%", "100%25"),
        ("*97", "%2A97"),
        ("Zoë", "Zo%C3%AB"),
        (">", "%3E"),
    ] {
        assert_eq!(key_word(word), expected, "{word}");
    }
}

#[test]
fn a_relay_binding_matches_only_the_tokens_own_id() {
    assert_eq!(subjects("relay.*", &account()), [format!("ev.{ACC}.relay.{ACC}.*.t%2E1")]);
    assert_eq!(subjects("relay.#", &account()), [format!("ev.{ACC}.relay.{ACC}.*.t%2E1")]);
    assert_eq!(subjects("relay.chat", &Access::All), ["ev.*.relay.*.chat.t%2E1"]);
    let form = "invalid format for relay subscription : relay.chat.t";
    assert_eq!(resolved("relay.chat.t", &account()).unwrap_err(), form);
    // An id is never a pattern, and an id that looks encoded is not decoded.
    for (id, expected) in [("*", "%2A"), ("#", "%23"), (">", "%3E"), ("a%2Eb", "a%252Eb"), ("a\nb", "a%0Ab")]
    {
        let bearer = Bearer { token_id: Some(id.into()), ..bearer(false) };
        let catalogue = catalogue();
        let parsed = parse(&catalogue, &families(), "relay.chat", &bearer).unwrap();
        let subjects = parsed.resolve("ev", &account()).unwrap().subjects;
        assert_eq!(subjects, [format!("ev.{ACC}.relay.{ACC}.chat.{expected}")]);
    }
    let without_id = Bearer { token_id: None, ..bearer(false) };
    let error = parse(&catalogue(), &families(), "relay.chat", &without_id).unwrap_err();
    assert_eq!(error.to_string(), "the token has no id of its own, which the requested binding needs");
}

#[test]
fn an_empty_account_id_is_refused() {
    let empty =
        Access::Account { account_id: String::new(), realm: Some(String::new()), realm_since_ms: None };
    assert!(resolved("call.*.*", &empty).is_err());
}

/// Bindings of words that are real, almost real or special, and random texts.
fn any_binding() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        Just("call"),
        Just("CHANNEL_CREATE"),
        Just("*"),
        Just("#"),
        Just(">"),
        Just(""),
        Just("conference"),
        Just("event"),
        Just("command"),
        Just("object"),
        Just("doc_created"),
        Just("user"),
        Just("fax"),
        Just("status"),
        Just(".."),
        Just("$JS"),
        Just("_INBOX"),
        Just("ev"),
        Just("_"),
        Just("@r"),
        Just("=2A"),
        Just("%2A"),
        Just("%2E"),
        Just("a b"),
        Just("\u{7f}"),
        Just("é"),
    ]
    .prop_map(str::to_owned);
    prop_oneof![
        prop::collection::vec(prop_oneof![4 => word, 1 => ".{0,3}"], 1..7).prop_map(|words| words.join(".")),
        ".{0,40}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn subjects_stay_below_the_granted_tenants(binding in any_binding(), id in "[a-z@_.*>=]{1,6}", realm in "[a-z@_.*>=]{0,6}", superduper in any::<bool>()) {
        let access = Access::Account { account_id: id.clone(), realm: Some(realm.clone()), realm_since_ms: None };
        let catalogue = catalogue();
        if let Ok(resolved) = parse(&catalogue, &families(), &binding, &bearer(superduper)).and_then(|parsed| parsed.resolve("ev", &access)) {
            let own = [format!("ev.{}.", Tenant::account(&id)), format!("ev.{}.", Tenant::realm(&realm))];
            for subject in resolved.subjects {
                prop_assert!(own.iter().any(|root| subject.starts_with(root)), "{} gave {}", binding, subject);
                prop_assert!(!own[0].contains(['*', '>']) && !own[1].contains(['*', '>']));
                prop_assert!(!subject.starts_with("ev._."));
                prop_assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()), "{}", subject);
                prop_assert!(subject.split('.').all(|word| !word.is_empty()), "{}", subject);
            }
        }
    }

    #[test]
    fn an_event_matches_at_most_one_subject_of_a_binding(binding in any_binding(), key in any_binding()) {
        let access = account();
        if let Ok(resolved) = parse(&catalogue(), &families(), &binding, &bearer(true)).and_then(|parsed| parsed.resolve("ev", &access)) {
            for tenant in [ACC, "@kid=2Eexample=2Ecom"] {
                let mut subject = format!("ev.{tenant}");
                push_key(&mut subject, key.as_bytes());
                let matching = resolved.subjects.iter().filter(|pattern| subject_matches(pattern, &subject)).count();
                prop_assert!(matching <= 1);
            }
        }
    }
}
