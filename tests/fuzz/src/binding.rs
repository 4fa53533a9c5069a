//! Clients' bindings.

use std::sync::LazyLock;

use blackhole_common::{
    catalogue::Catalogue,
    subject::{Word, decode_key, push_key, subject_matches},
    tenant::Tenant,
    wire::{Access, Bearer},
};
use ws_edge::access::{binding::parse, families::Families};

use crate::patterns::{matches, words};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::load(None).unwrap());
static FAMILIES: LazyLock<Families> = LazyLock::new(|| Families::new(&CATALOGUE, Default::default()));
const ACCOUNT: &str = "4b31dd1d32ce6d249897c06332375d65";

/// Lines: the binding, a routing key, the account's id and realm, the token's id.
///
/// A binding never leaves the granted tenants, and matches the keys that its pattern matches.
pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let mut lines = text.split('\n');
    let binding = lines.next().unwrap_or_default();
    let key = lines.next().unwrap_or_default();
    let account_id = lines.next().unwrap_or(ACCOUNT);
    let realm = lines.next().unwrap_or("kid.example.com");
    let bearer = Bearer {
        account_id: account_id.to_owned(),
        expires_at: 9,
        superduper_admin: text.len().is_multiple_of(2),
        token_id: lines.next().map(str::to_owned),
    };
    let access = Access::Account {
        account_id: account_id.to_owned(),
        realm: Some(realm.to_owned()),
        realm_since_ms: None,
    };
    let Ok(resolved) =
        parse(&CATALOGUE, &FAMILIES, binding, &bearer).and_then(|parsed| parsed.resolve("ev", &access))
    else {
        return false;
    };
    let roots = [Tenant::account(account_id), Tenant::realm(realm)].map(|tenant| format!("ev.{tenant}"));
    assert!(!resolved.subjects.is_empty());
    for root in roots {
        let below = |subject: &String| {
            let rest = subject.strip_prefix(&root)?.strip_prefix('.')?.to_owned();
            Some(rest)
        };
        let subjects: Vec<String> = resolved.subjects.iter().filter_map(below).collect();
        let mut concrete = root.clone();
        push_key(&mut concrete, key.as_bytes());
        let got = resolved.subjects.iter().filter(|subject| subject_matches(subject, &concrete)).count();
        let expected =
            subjects.iter().filter(|subject| matches(&pattern(subject), &words(key.as_bytes()))).count();
        assert_eq!(got, expected, "{key:?} and {:?}", resolved.subjects);
        assert!(got <= 1, "{key:?} and {:?}", resolved.subjects);
    }
    for subject in &resolved.subjects {
        let tenant = subject.split('.').nth(1).unwrap();
        let is_granted =
            tenant == Tenant::account(account_id).to_string() || tenant == Tenant::realm(realm).to_string();
        assert!(is_granted && tenant != "_" && !tenant.contains(['*', '>']), "{subject}");
        assert!(subject.bytes().all(|byte| byte.is_ascii_graphic()) && !subject.contains(".."), "{subject}");
    }
    true
}

/// The AMQP pattern of a subject. `>` is one word or more.
fn pattern(subject: &str) -> Vec<Word> {
    let words = subject.split('.').flat_map(|word| match word {
        "*" => vec![Word::Any],
        ">" => vec![Word::Any, Word::Rest],
        word => vec![Word::Exactly(decoded(word))],
    });
    words.collect()
}

/// An account's id is one word, whatever is in it, also `#` or dots: with those, no key has this word.
fn decoded(word: &str) -> String {
    let decode = |part| String::from_utf8(decode_key(part).unwrap()).unwrap();
    match word {
        "=" => String::new(),
        word => word.split("=2E").map(decode).collect::<Vec<_>>().join("."),
    }
}
