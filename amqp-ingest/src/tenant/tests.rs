use super::*;

fn tenant_in(catalogue: &Catalogue, exchange: &str, key: &str, body: &str) -> String {
    let event = catalogue.event(exchange, key).unwrap();
    let parsed = body::parse(body.as_bytes(), &body_paths(event)).unwrap();
    resolve(event, key, &parsed.members).0.to_string()
}

fn owner(exchange: &str, key: &str, body: &str) -> Option<String> {
    let catalogue = Catalogue::load(None).unwrap();
    let event = catalogue.event(exchange, key).unwrap();
    let parsed = body::parse(body.as_bytes(), &body_paths(event)).unwrap();
    resolve(event, key, &parsed.members).1.map(|owner| owner.to_text())
}

fn tenant(exchange: &str, key: &str, body: &str) -> String {
    tenant_in(&Catalogue::load(None).unwrap(), exchange, key, body)
}

fn catalogue_extended_by(text: &str) -> Catalogue {
    let file = std::env::temp_dir().join(format!("amqp-ingest-tenant-{}.toml", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let catalogue = Catalogue::load(Some(&file)).unwrap();
    std::fs::remove_file(&file).unwrap();
    catalogue
}

#[test]
fn calls_belong_to_the_account_in_the_body() {
    let key = "call.CHANNEL_ANSWER.c7d1%2E5e%4010%2E0%2E0%2E9";
    assert_eq!(
        tenant(
            "callevt",
            key,
            r#"{"Event-Category": "call_event", "Event-Name": "CHANNEL_ANSWER", "To": "100@elsewhere.example",
                "Custom-Channel-Vars": {"Realm": "acme.example", "Account-ID": "5d0c1f6b8a7e4c3d9f20b1a2c3d4e5f6"}}"#
        ),
        "5d0c1f6b8a7e4c3d9f20b1a2c3d4e5f6"
    );
}

#[test]
fn calls_without_an_account_belong_to_their_realm() {
    let key = "call.CHANNEL_CREATE.x";
    for (body, expected) in [
        (r#""Custom-Channel-Vars": {"Realm": "Acme.Example"}"#, "@acme=2Eexample"),
        (r#""Custom-Channel-Vars": {"Account-ID": ""}, "To": "100@acme.example""#, "@acme=2Eexample"),
        (r#""Custom-Channel-Vars": {"Account-ID": 7}, "From": "100@acme.example""#, "@acme=2Eexample"),
        (r#""To": "nowhere", "From": 5, "Request": "sip:100@acme.example:5060;x=1""#, "@acme=2Eexample"),
        (r#""Custom-Channel-Vars": "none""#, "_"),
        (r#""Account-ID": "not-where-a-call-has-it""#, "_"),
    ] {
        let body = format!(r#"{{"Event-Name": "CHANNEL_CREATE", {body}}}"#);
        assert_eq!(tenant("callevt", key, &body), expected, "{body}");
    }
}

#[test]
fn conference_and_fax_keys_name_the_account() {
    let body = r#"{"Event-Name": "event", "Account-ID": "from-the-body"}"#;
    assert_eq!(tenant("conference", "conference.event.add-member.acc1.room9.c%2E1", body), "acc1");
    assert_eq!(tenant("faxes", "fax.status.acc1.job7", body), "acc1");
    assert_eq!(tenant("conference", "conference.command.room9", body), "from-the-body");
    let nested = r#"{"Event-Name": "command", "Custom-Channel-Vars": {"Account-ID": "nested"}}"#;
    assert_eq!(tenant("conference", "conference.command.room9", nested), "nested");
    // An empty word is not an account.
    assert_eq!(tenant("faxes", "fax.status..job7", body), "_");
}

#[test]
fn a_database_source_is_decisive() {
    let body = r#"{"Event-Name": "doc_edited", "Account-ID": "5d0c1f6b8a7e4c3d9f20b1a2c3d4e5f6"}"#;
    for (key, expected) in [
        (
            "doc_edited.account%2F5d%2F0c%2F1f6b8a7e4c3d9f20b1a2c3d4e5f6.user.u1",
            "5d0c1f6b8a7e4c3d9f20b1a2c3d4e5f6",
        ),
        (
            "doc_created.account%2F5d%2F0c%2F1f6b8a7e4c3d9f20b1a2c3d4e5f6-202612.fax.f1",
            "5d0c1f6b8a7e4c3d9f20b1a2c3d4e5f6",
        ),
        ("doc_edited.accounts.account.5d0c1f6b8a7e4c3d9f20b1a2c3d4e5f6", "_"),
        ("doc_deleted.system_media.media.m1", "_"),
    ] {
        assert_eq!(tenant("configuration", key, body), expected, "{key}");
    }
}

#[test]
fn realms_in_keys_are_decoded() {
    let catalogue = catalogue_extended_by(
        "[[extend]]\nfamily = \"presence\"\n[[extend.event]]\nexchange = \"presence\"\nkey = \"probe.{who}\"\n\
         tenant = [{ key = \"who\", as = \"address\" }]\n",
    );
    let body = r#"{"Event-Name": "dialog_update"}"#;
    assert_eq!(tenant_in(&catalogue, "presence", "dialog.Acme%2EExample.c1", body), "@acme=2Eexample");
    assert_eq!(tenant_in(&catalogue, "presence", "probe.100%40acme%2Eexample", body), "@acme=2Eexample");
    assert_eq!(tenant_in(&catalogue, "presence", "dialog..c1", body), "_");
}

#[test]
fn overlong_ids_are_ignored_and_special_characters_escaped() {
    let body =
        |id: &str| format!(r#"{{"Event-Name": "x", "Custom-Channel-Vars": {{"Account-ID": "{id}"}}}}"#);
    let key = "call.CHANNEL_CREATE.x";
    assert_eq!(tenant("callevt", key, &body(&"a".repeat(256))), "_");
    // Text that looks like a subject becomes one escaped word.
    assert_eq!(tenant("callevt", key, &body("a.*.>")), "a=2E=2A=2E=3E");
    assert_eq!(tenant("callevt", key, &body("_")), "=5F");
}

#[test]
fn sip_realm_is_extracted_from_all_address_forms() {
    for (address, expected) in [
        ("100@acme.example", Some("acme.example")),
        ("*97@acme.example", Some("acme.example")),
        ("sip:100@acme.example", Some("acme.example")),
        ("sips:100@acme.example:5061;transport=tls", Some("acme.example")),
        ("\"Front <desk>\" <sip:100@acme.example>;tag=9", None),
        ("\"Front desk\" <sip:100@acme.example;lr>;tag=9", Some("acme.example")),
        ("sip:a;b?c@acme.example?subject=x", Some("acme.example")),
        ("sip:100@[2001:db8::7]:5060", Some("2001:db8::7")),
        ("a@b@acme.example", Some("acme.example")),
        ("acme.example", None),
        ("100@", Some("")),
        ("", None),
    ] {
        assert_eq!(sip_realm(address), expected, "{address}");
    }
}

#[test]
fn each_family_names_its_owner_or_nobody() {
    const CALL: &str = "call.CHANNEL_ANSWER.x";
    let vars = |members: &str| format!(r#"{{"Event-Name": "x", "Custom-Channel-Vars": {{{members}}}}}"#);
    for (exchange, key, body, expected) in [
        ("callevt", CALL, vars(r#""Owner-ID": "u1", "Authorizing-ID": "d1""#), Some("id:u1")),
        ("callevt", CALL, vars(r#""Owner-ID": null, "Authorizing-ID": "d1""#), Some("id:d1")),
        ("callevt", CALL, vars(r#""Owner-ID": "", "Authorizing-ID": "d1""#), Some("id:d1")),
        ("callevt", CALL, vars(r#""Owner-ID": 5"#), None),
        ("callevt", CALL, r#"{"Event-Name": "x", "Owner-ID": "elsewhere"}"#.into(), None),
        ("callevt", CALL, vars(&format!(r#""Owner-ID": "{}""#, "x".repeat(256))), None),
        ("conference", "conference.event.lock.a.c.1", vars(r#""Owner-ID": "u1""#), Some("id:u1")),
        ("conference", "conference.command.c", vars(r#""Owner-ID": "u1""#), None),
        ("configuration", "doc_edited.account%2Fa.device.d1", vars(""), Some("id:d1")),
        ("configuration", "doc_edited.account%2Fa.vmbox.a%2Eb", vars(""), Some("id:a.b")),
        ("faxes", "fax.status.a.f", r#"{"Event-Name": "x", "FaxBox-ID": "fb1"}"#.into(), Some("id:fb1")),
        (
            "presence",
            "dialog.r.c1",
            r#"{"Event-Name": "x", "Presence-ID": "1001@r"}"#.into(),
            Some("presence:1001"),
        ),
        (
            "presence",
            "mwi_updates.r.1001",
            r#"{"Event-Name": "x", "To": "5@r"}"#.into(),
            Some("presence:1001"),
        ),
        ("live", "relay.a.chat.t%2E1", vars(""), Some("token:t.1")),
        (
            "notifications",
            "notifications.voicemail.new",
            r#"{"Event-Name": "x", "Voicemail-Box": "vm1"}"#.into(),
            Some("id:vm1"),
        ),
        ("qubicle", "qubicle.queue.a.q.e", vars(r#""Owner-ID": "u1""#), None),
    ] {
        assert_eq!(owner(exchange, key, &body).as_deref(), expected, "{key} {body}");
    }
}
