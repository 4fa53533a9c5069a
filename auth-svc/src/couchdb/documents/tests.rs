use super::*;

fn rows(documents: &[&str]) -> Vec<AccountRow> {
    let rows: Vec<String> = documents
        .iter()
        .enumerate()
        .map(|(id, doc)| format!(r#"{{"id":"{id}","key":"{id}","value":{{"rev":"2-a"}},"doc":{doc}}}"#))
        .collect();
    account_rows(format!(r#"{{"total_rows":9,"offset":0,"rows":[{}]}}"#, rows.join(",")).as_bytes()).unwrap()
}

fn account(document: &str) -> Option<Account> {
    rows(&[document]).remove(0).account
}

#[test]
fn an_accounts_document_is_read() {
    let read = account(
        r#"{"_id":"0","_rev":"2-a","name":"acme","realm":"acme.example.com","pvt_type":"account",
            "pvt_tree":["top","reseller"],"pvt_enabled":true,"enabled":true,"pvt_signature_secret":"s","x":[{}]}"#,
    );
    let expected = Account {
        id: "0".into(),
        name: "acme".into(),
        realm: Some("acme.example.com".into()),
        ancestors: vec!["top".into(), "reseller".into()],
        superduper_admin: false,
        enabled: true,
    };
    assert_eq!(read, Some(expected));
}

#[test]
fn only_accounts_that_are_not_deleted_count() {
    for document in [
        "null",
        "{}",
        r#"{"language":"erlang","views":{}}"#,
        r#"{"pvt_type":"account","pvt_deleted":true}"#,
        r#"{"pvt_type":"account","pvt_deleted":"true"}"#,
        r#"{"pvt_type":"account","pvt_deleted":1}"#,
        r#"{"pvt_type":"user"}"#,
        r#"{"pvt_type":["account"]}"#,
    ] {
        assert_eq!(account(document), None, "{document}");
    }
}

#[test]
fn one_of_both_flags_disables_and_only_true_is_a_superduper_admin() {
    for (flags, expected) in [
        (r#""a":1"#, true),
        (r#""enabled":true"#, true),
        (r#""pvt_enabled":"true""#, true),
        (r#""pvt_enabled":null"#, true),
        (r#""enabled":false,"pvt_enabled":true"#, false),
        (r#""enabled":true,"pvt_enabled":false"#, false),
        (r#""pvt_enabled":"false""#, false),
        (r#""pvt_enabled":0"#, false),
    ] {
        let read = account(&format!(r#"{{"pvt_type":"account",{flags}}}"#)).unwrap();
        assert_eq!(read.enabled, expected, "{flags}");
    }
    for (flag, expected) in
        [("true", true), ("\"true\"", true), ("1", false), ("\"yes\"", false), ("null", false)]
    {
        let read = account(&format!(r#"{{"pvt_type":"account","pvt_superduper_admin":{flag}}}"#)).unwrap();
        assert_eq!(read.superduper_admin, expected, "{flag}");
    }
}

#[test]
fn an_odd_document_affects_no_other() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let odd = format!(
        r#"{{"pvt_type":"account","name":{deep},"realm":{{"a":{deep}}},"pvt_tree":[{deep}],"x":{deep}}}"#
    );
    let documents = [
        r#"{"pvt_type":"account","pvt_tree":["a",5]}"#,
        r#"{"pvt_type":"account","realm":"a b"}"#,
        r#"{"pvt_type":"account","name":"\ud800"}"#,
        r#"{"pvt_type":"account","realm":"a","realm":"b"}"#,
        &odd,
        r#"{"pvt_type":"account","realm":"fine"}"#,
    ];
    let read = rows(&documents);
    assert_eq!(read.len(), documents.len());
    let account = |index: usize| read[index].account.clone();
    assert_eq!(account(0).unwrap().ancestors, [""; 0]);
    assert_eq!(account(1).unwrap().realm, None);
    assert_eq!((account(2), account(3)), (None, None));
    assert_eq!(account(4).unwrap().realm, None);
    assert_eq!(account(5).unwrap().realm.as_deref(), Some("fine"));
}

#[test]
fn rows_of_missing_and_deleted_documents_have_no_account() {
    let json = br#"{"rows":[{"key":"a","error":"not_found"},
        {"id":"b","key":"b","value":{"rev":"7-x","deleted":true},"doc":null}]}"#;
    let row = |id: &str, revision: &str| AccountRow {
        id: id.into(),
        revision: Revision::of(revision),
        account: None,
    };
    assert_eq!(account_rows(json).unwrap(), [row("a", ""), row("b", "7-x")]);
}

#[test]
fn the_first_section_that_has_a_setting_counts() {
    let sections = ["kazoo_apps@a", "zone-1", "default"].map(str::to_owned);
    let read = |json: &str| auth_settings(json.as_bytes(), &sections).unwrap();
    let json = r#"{"_id":"auth","_rev":"4-x","default":{"secret_for_user_signature":"d","system_key":"k"},
        "zone-1":{"secret_for_user_signature":"z"},"kazoo_apps@b":{"secret_for_user_signature":"b"},
        "kazoo_apps@a":{"secret_for_user_signature":""}}"#;
    let settings = read(json);
    assert_eq!(settings.server_secret, Some(Secret::new("z")));
    assert_eq!((settings.system_key.as_deref(), settings.revision), (Some("k"), Revision::of("4-x")));
    assert_eq!(read(r#"{"default":5}"#), AuthSettings::default());
    let deleted = json.replace("{\"_id", "{\"pvt_deleted\":true,\"_id");
    assert_eq!(read(&deleted).server_secret, None);
}

#[test]
fn sequences_are_given_back_as_they_came() {
    for (json, text) in [
        ("\"12-g1AAAA\"", "12-g1AAAA"),
        ("[7,\"g2wAAAA\"]", "[7,\"g2wAAAA\"]"),
        ("42", "42"),
        ("{\"a\":1}", "{\"a\":1}"),
    ] {
        let info: DatabaseInfo = serde_json::from_str(&format!("{{\"update_seq\":{json}}}")).unwrap();
        assert_eq!(info.update_seq.text(), text);
    }
}
