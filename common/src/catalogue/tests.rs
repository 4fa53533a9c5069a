use super::*;

fn extended(text: &str) -> Result<Catalogue, String> {
    let directory = std::env::temp_dir().join(format!("blackhole-catalogue-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let name =
        format!("{:x}.toml", text.bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte)));
    let file = directory.join(name);
    std::fs::write(&file, text).unwrap();
    let result = Catalogue::load(Some(&file)).map_err(|error| error.to_string());
    std::fs::remove_file(&file).unwrap();
    result
}

#[test]
fn the_built_in_families_load() {
    let catalogue = Catalogue::load(None).unwrap();
    let names: Vec<_> = catalogue.families().iter().map(|family| family.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "call",
            "conference",
            "object",
            "fax",
            "presence",
            "stream",
            "live",
            "relay",
            "dialog",
            "qubicle",
            "notifications"
        ]
    );
}

#[test]
fn amqp_bindings_cover_the_catalogue() {
    let catalogue = Catalogue::load(None).unwrap();
    let patterns: Vec<_> = catalogue
        .amqp_bindings()
        .iter()
        .map(|binding| format!("{} {}", binding.exchange, binding.pattern))
        .collect();
    assert_eq!(patterns.len(), 9 + 2 + 30 + 1 + 3 + 2 + 5 + 1 + 1 + 6 + 1);
    for expected in [
        "callevt call.PARK_ABANDONED.*",
        "conference conference.event.*.*.*.*",
        "conference conference.command.*",
        "configuration doc_created.*.mailbox_message.*",
        "faxes fax.status.*.*",
        "presence mwi_updates.*.*",
        "live live.conference.*.caption.*",
    ] {
        assert!(patterns.iter().any(|pattern| pattern == expected), "{expected} in {patterns:?}");
    }
}

#[test]
fn events_are_found_by_exchange_and_key() {
    let catalogue = Catalogue::load(None).unwrap();
    for (exchange, key, template, shown) in [
        ("callevt", "call.CHANNEL_CREATE.x", "call.{event}.{call_id}", "call.{account}.{event}.{call_id}"),
        ("faxes", "fax.status.a.b", "fax.status.{account}.{fax_id}", "fax.status.{account}.{fax_id}"),
    ] {
        let event = catalogue.event(exchange, key).unwrap();
        assert_eq!((event.key.as_str(), event.shown_key().as_str()), (template, shown));
        assert_eq!(catalogue.event_by_key(key).unwrap().key, event.key);
    }
    for (exchange, key) in [
        ("callevt", "call.OTHER.x"),
        ("callevt", "call.CHANNEL_CREATE"),
        ("callevt", "call.CHANNEL_CREATE.x.y"),
        ("callevt", ""),
    ] {
        assert!(catalogue.event(exchange, key).is_none(), "{exchange} {key}");
        assert!(catalogue.event_by_key(key).is_none(), "{key}");
    }
    assert!(catalogue.event("faxes", "call.CHANNEL_CREATE.x").is_none());
}

#[test]
fn exchanges_are_declared_once_with_their_type() {
    let file = r#"
        [[family]]
        name = "mine"
        [[family.event]]
        exchange = "direct"
        exchange_type = "direct"
        key = "mine.a"
        tenant = []
        [[family.event]]
        exchange = "direct"
        exchange_type = "direct"
        key = "mine.b"
        tenant = []
        [[family.event]]
        exchange = "fanout"
        exchange_type = "fanout"
        key = "mine.c"
        tenant = []
    "#;
    let catalogue = extended(file).unwrap();
    let built_in = Catalogue::load(None).unwrap();
    let names: Vec<&str> = built_in.exchanges().iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "callevt",
            "conference",
            "configuration",
            "faxes",
            "presence",
            "pivot",
            "live",
            "dialog",
            "qubicle",
            "notifications"
        ]
    );
    let exchanges = catalogue.exchanges();
    let (topics, added) = exchanges.split_at(names.len());
    assert!(topics.iter().all(|(_, kind)| *kind == ExchangeType::Topic), "{topics:?}");
    assert_eq!(added, [("direct", ExchangeType::Direct), ("fanout", ExchangeType::Fanout)]);
}

#[test]
fn an_operators_file_adds_extends_and_replaces_families() {
    let catalogue = extended(
        r#"
        [[extend]]
        family = "call"
        values.event = ["CHANNEL_DATA"]

        [[family]]
        name = "registration"
        [[family.event]]
        exchange = "registrar"
        key = "registration.success.{realm}.{username}"
        tenant = [{ key = "realm", as = "realm" }]
        [[family.event.form]]
        binding = "registration.success.{username}"

        [[family]]
        name = "fax"
        replace = true
        [[family.event]]
        exchange = "faxes"
        key = "fax.state.{account}"
        tenant = [{ key = "account" }]
        "#,
    )
    .unwrap();
    assert!(catalogue.event("callevt", "call.CHANNEL_DATA.x").is_some());
    assert!(catalogue.event("registrar", "registration.success.r.u").is_some());
    assert!(catalogue.event("faxes", "fax.status.a.b").is_none());
    assert!(catalogue.event("faxes", "fax.state.a").is_some());
}

#[test]
fn errors_name_the_family_and_the_reason() {
    let exchange =
        |name: &str| format!("[[family]]\nname = \"mine\"\n[[family.event]]\nexchange = \"{name}\"\n");
    let family = |event: &str| format!("{}{event}", exchange("e"));
    let with_form = |form: &str| {
        family(&format!(
            "key = \"mine.{{account}}.{{x}}.{{y}}\"\ntenant = []\nvalues.x = [\"a\", \"b\"]\nform = [{{ binding = \"mine.{{y}}\", {form} }}]"
        ))
    };
    for (text, expected) in [
        ("[[extend]]\nfamily = \"cal\"".into(), "family `cal`: there is no such family to extend"),
        (
            "[[extend]]\nfamily = \"call\"\nvalues.call_id = [\"x\"]".into(),
            "family `call`: `call_id` has no list of values",
        ),
        (
            "[[family]]\nname = \"call\"\nevent = []".into(),
            "family `call`: there is one of this name already",
        ),
        ("[[family]]\nname = \"mine\"\nevent = []".into(), "family `mine`: has no [[family.event]]"),
        (
            family("key = \"mine.{id}\"\ntenant = [{ key = \"account\" }]"),
            "family `mine`: event `mine.{id}`: `account` is no parameter of the key",
        ),
        (family("key = \"{a}.b\"\ntenant = []"), "the first word `{a}` needs a list of values"),
        (
            family("key = \"call.{event}.{x}\"\ntenant = []"),
            "family `call`: key `call.{event}.{call_id}` could also be one of `call.{event}.{x}`, family `mine`, from exchange `e`",
        ),
        (
            family("key = \"mine.#\"\ntenant = []"),
            "`#` in `mine.#` is neither a plain word nor a `{parameter}`",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = [{ body = \"a\", key = \"x\" }]"),
            "a tenant is either `key` (a parameter) or `body` (a member)",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\ncolour = 1"),
            ": line 7 (in or after family \"mine\"): unknown field `colour`",
        ),
        (
            exchange("") + "key = \"mine.{x}\"\ntenant = []",
            "event `mine.{x}`: `exchange` must have 1 to 255 bytes",
        ),
        (
            exchange(&"e".repeat(256)) + "key = \"mine.{x}\"\ntenant = []",
            "event `mine.{x}`: `exchange` must have 1 to 255 bytes",
        ),
        (
            exchange("callevt") + "exchange_type = \"direct\"\nkey = \"mine.{x}\"\ntenant = []",
            "exchange `callevt` has another type in family `mine`",
        ),
        (family("key = \"mine.{x}\"\ntenant = []\nvalues.x = []"), "event `mine.{x}`: `values.x` is empty"),
        (
            family("key = \"mine.{x}\"\ntenant = []\nvalues.x = [\"a\", \"b.*\"]"),
            "event `mine.{x}`: `b.*` in `values.x` is not a plain word",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nvalues.x = [\"CHANNEL.FOO\"]"),
            "event `mine.{x}`: `CHANNEL.FOO` in `values.x` is not a plain word",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nvalues.x = [\"{y}\"]"),
            "event `mine.{x}`: `{y}` in `values.x` is not a plain word",
        ),
        (with_form("wildcards = [\"x\"]"), "form `mine.{y}`: the binding has no parameter `x`"),
        (with_form("values = { y = [\"a.b\"] }"), "`a.b` in `values.y` is not a plain word"),
        (with_form("not_values = { y = \"x\" }"), "form `mine.{y}`: `x` needs a list of values in the form"),
        (
            family(
                "key = \"mine.{x}\"\ntenant = []\nform = [{ binding = \"mine\" }]\n[[family.event]]\nexchange = \"e\"\n\
                 key = \"mine.a\"\ntenant = []\nform = [{ binding = \"mine\" }]",
            ),
            "events `mine.{x}` and `mine.a` have the same form, and a key could be of both",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nvalues.y = [\"a\"]"),
            "event `mine.{x}`: `y` is no parameter of the key",
        ),
        (
            family("key = \"mine.{x}\"\nshown = \"mine.{y}\"\ntenant = []"),
            "event `mine.{x}`: `y` is no parameter of the key",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = [{}]"),
            "a tenant is either `key` (a parameter) or `body` (a member)",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = [{ body = \"a..b\" }]"),
            "event `mine.{x}`: tenant: `a..b` has an empty member name",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = [{ body = \"a\", as = \"database\" }]"),
            "event `mine.{x}`: a tenant with `as = \"database\"` must come from the key",
        ),
        (
            with_form("fixed = { y = \"a\" }"),
            "form `mine.{y}`: `y` is fixed, so the binding must not have it as a parameter",
        ),
        (
            with_form("fixed = { x = \"c\" }"),
            "form `mine.{y}`: `x` is fixed to `c`, which is not among its values",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nstate = { key = [] }"),
            "event `mine.{x}`: state: `key` is empty: what tells one thing from another?",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nstate = { key = [{ key = \"y\" }] }"),
            "event `mine.{x}`: state: `key`: `y` is no parameter of the key",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nstate = [{ key = [{ body = \"a..b\" }] }]"),
            "event `mine.{x}`: state: `key`: `a..b` has an empty member name",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nstate = { key = [{ key = \"x\", body = \"a\" }] }"),
            "event `mine.{x}`: state: `key` names either `key` (a parameter) or `body` (a member)",
        ),
        (
            family(
                "key = \"mine.{x}\"\ntenant = []\nvalues.x = [\"a\"]\nstate = { key = [{ key = \"x\" }], ends = [{ key = \"x\", values = [\"b\"] }] }",
            ),
            "event `mine.{x}`: state: `ends`: no event has `b` there: it is not among the parameter's values",
        ),
        (
            family(
                "key = \"mine.{x}\"\ntenant = []\nstate = { key = [{ key = \"x\" }], only = [{ body = \"a\", values = [] }] }",
            ),
            "event `mine.{x}`: state: `only` has an empty list of `values`",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nstate = { key = [{ key = \"x\" }], max_age = \"0s\" }"),
            "event `mine.{x}`: state: `max_age` must be longer than 0 and at most 31 days",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nstate = { kye = [] }"),
            "unknown field `kye`, expected one of `key`, `ends`, `only`, `max_age`",
        ),
        (with_form("fixed = { z = \"c\" }"), "form `mine.{y}`: `z` is no parameter of the key"),
        (
            with_form("fixed = { x = \"a\" }, token_id = \"x\""),
            "form `mine.{y}`: `x` is the token's id, so nothing else may set it",
        ),
        (
            with_form("token_id = \"account\""),
            "form `mine.{y}`: `account` is the token's id, so nothing else may set it",
        ),
        (
            with_form("required_unless_superduper = { x = \"X\" }"),
            "form `mine.{y}`: `x` is required, but the binding has no such parameter",
        ),
        (
            family(&format!(
                "key = \"mine.{{x}}.{{y}}\"\ntenant = []\nvalues = {{ x = {n:?}, y = {n:?} }}",
                n = ["a"; 32]
            )),
            "event `mine.{x}.{y}`: `values` has 1024 combinations, more than 1000",
        ),
        (
            family(&format!("key = \"mine.{{x}}.{{y}}\"\ntenant = []\nvalues.x = [\"{}\"]", "x".repeat(249))),
            "event `mine.{x}.{y}`: its longest binding has 256 bytes, more than 255",
        ),
        (family("key = \"mine.{x}\"\ntenant = []\nexchange_type = \"x\""), "unknown variant `x`"),
        (
            family("key = \"mine.{x}\"\ntenant = []\nform = [{ binding = \"mine.{y}\" }]"),
            "form `mine.{y}`: `y` is no parameter of the key",
        ),
        (
            family(
                "key = \"mine.{account}.{x}\"\ntenant = []\nform = [{ binding = \"mine.{account}.{x}\" }]",
            ),
            "`{account}` comes from the request",
        ),
        (
            family(
                "key = \"mine.{x}\"\ntenant = []\nform = [{ binding = \"mine\", required = { x = \"X\" } }]",
            ),
            "`x` is required, but the binding has no such parameter",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nform = [{ binding = \"mine.{x}\", token_id = \"x\" }]"),
            "`x` is the token's id, so nothing else may set it",
        ),
        (
            family("key = \"mine.{x}\"\ntenant = []\nform = [{ binding = \"mine\", token_id = \"y\" }]"),
            "form `mine`: `y` is no parameter of the key",
        ),
    ] {
        let error = extended(&text).unwrap_err();
        assert!(error.contains(expected), "{text}\n gave: {error}\n not: {expected}");
        assert!(!error.contains('\n'), "{error}");
    }
    for valid in [
        exchange(&"e".repeat(255)) + "key = \"mine.{x}\"\ntenant = []",
        family("key = \"mine.{x}\"\nshown = \"mine.{account}.{x}\"\ntenant = [{ body = \"a.b\" }]"),
        with_form("fixed = { x = \"b\" }, required = { y = \"Y\" }"),
        with_form("token_id = \"x\""),
        family(&format!("key = \"mine.{{x}}.{{y}}\"\ntenant = []\nvalues.x = [\"{}\"]", "x".repeat(248))),
        // The same number of words, but the values differ.
        family("key = \"call.{event}.{x}\"\ntenant = []\nvalues.event = [\"OTHER\"]"),
    ] {
        extended(&valid).unwrap();
    }
}
