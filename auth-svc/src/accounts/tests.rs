use proptest::prelude::*;

use super::*;
use crate::testing;

#[test]
fn ancestors_start_at_the_top() {
    let accounts = Accounts::parse(testing::ACCOUNTS).unwrap();
    assert_eq!(accounts.count(), 5);
    let child = accounts.get("child").unwrap();
    assert_eq!(child.ancestors, ["system", "reseller"]);
    assert_eq!(child.realm.as_deref(), Some("child.example.com"));
    assert!(child.enabled && !child.superduper_admin);
    assert!(accounts.get("system").unwrap().superduper_admin);
    assert!(!accounts.get("closed").unwrap().enabled);
}

#[test]
fn errors_name_the_account() {
    let account = |id: &str, more: &str| {
        format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = \"{id}.example.com\"\n{more}\n")
    };
    for (text, expected) in [
        (String::new(), "contains no [[account]]"),
        ("[account]\nid = 1".into(), "line 1: "),
        (account("a", "enable = true"), "line 5: unknown field `enable`"),
        (account("a", "") + "[other]\n", "line 6: unknown field `other`"),
        (account("a", "enabled = \"yes\""), "line 5: invalid type"),
        ("[[account]]\nid = \"a\"\nname = \"n\"".into(), "missing field `realm`"),
        (account("a", "") + &account("a", ""), "account a: the id is used twice"),
        (account("a", "parent = \"b\""), "account a: its parent \"b\" does not exist"),
        (account("a", "parent = \"a\""), "account a: is its own ancestor"),
        (account("a", "parent = \"b\"") + &account("b", "parent = \"a\""), "is its own ancestor"),
        (account("*", ""), "account \"*\": an id must be"),
        (account("", ""), "account \"\": an id must be"),
        (account("a.b", ""), "account \"a.b\": an id must be"),
        (
            "[[account]]\nid = \"a\"\nname = \"n\"\nrealm = \"a b\"".into(),
            "account a: \"a b\" is not a valid realm",
        ),
        (
            account("a", "") + "[[account]]\nid = \"b\"\nname = \"n\"\nrealm = \"A.EXAMPLE.com\"",
            "account b: account a has the same realm",
        ),
    ] {
        let reason = Accounts::parse(&text).unwrap_err();
        assert!(reason.contains(expected), "{reason} instead of {expected}");
        assert!(!reason.contains('\n'));
    }
}

#[test]
fn users_belong_to_an_account_and_a_change_of_one_is_a_change_of_the_account() {
    let user = |more: &str| format!("{}[[user]]\n{more}\n", testing::ACCOUNTS);
    for (text, expected) in [
        (user("id = \"\"\naccount = \"child\""), "the id is empty"),
        (user("id = \"u\"\naccount = \"nobody\""), "user \"u\": its account \"nobody\" does not exist"),
        (user("id = \"u\"\naccount = \"child\"\nlevel = 1"), "unknown field `level`"),
        (
            user("id = \"u\"\naccount = \"child\"\n[[user]]\nid = \"u\"\naccount = \"child\""),
            "is listed twice",
        ),
        (
            user(&format!("id = \"u\"\naccount = \"child\"\ndevices = {:?}", vec!["d"; 501])),
            "owns more than 500",
        ),
    ] {
        let reason = Accounts::parse(&text).unwrap_err();
        assert!(reason.contains(expected), "{reason} instead of {expected}");
    }
    let before = Accounts::parse(testing::ACCOUNTS).unwrap();
    let text = user("id = \"u\"\naccount = \"child\"");
    let with_user = replaced(&before, &text);
    assert_eq!(changed(&with_user), ["child"]);
    assert_eq!(changed(&replaced(&with_user, &text)), [""; 0]);
    assert_eq!(changed(&replaced(&with_user, &(text + "admin = true"))), ["child"]);
    assert_eq!(changed(&replaced(&with_user, testing::ACCOUNTS)), ["child"]);
}

#[test]
fn numbers_belong_to_one_enabled_account() {
    let account = |id: &str, more: &str| {
        format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = \"{id}.example.com\"\n{more}\n")
    };
    let listed = account("a", "numbers = [\"+14155550123\", \"030123456\"]")
        + &account("b", "numbers = [\"+14155550199\"]\nenabled = false");
    let accounts = Accounts::parse(&listed).unwrap();
    let of = |number: &str| {
        let request = NumberRequest { to: Some(number.into()), ..NumberRequest::default() };
        accounts.account_of(&request).map(|account| account.id.as_str())
    };
    for number in ["+14155550123", "14155550123", "4155550123", "030123456"] {
        assert_eq!(of(number), Some("a"), "{number}");
    }
    for number in ["", "+14155550124", "+14155550199", "30123456"] {
        assert_eq!(of(number), None, "{number}");
    }
    assert!(accounts.has_numbers() && !Accounts::parse(&account("a", "")).unwrap().has_numbers());
    for (more, expected) in [
        ("numbers = [\"\"]", "account b: \"\" is not a number"),
        ("numbers = [\"+1 415\"]", "is not a number"),
        ("numbers = [\"+14155550123\"]", "account b: account a has the number +14155550123 too"),
        ("numbers = [5]", "invalid type"),
    ] {
        let text = account("a", "numbers = [\"+14155550123\"]") + &account("b", more);
        let reason = Accounts::parse(&text).unwrap_err();
        assert!(reason.contains(expected), "{reason} instead of {expected}");
    }
}

#[test]
fn ids_and_realms_have_a_maximum_length() {
    let parse = |id: usize, realm: usize| {
        let (id, realm) = ("a".repeat(id), "r".repeat(realm));
        Accounts::parse(&format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = {realm:?}\n")).map(drop)
    };
    parse(64, 253).unwrap();
    assert!(parse(65, 253).unwrap_err().ends_with("an id must be 1 to 64 letters, digits, `_` or `-`"));
    assert!(parse(64, 254).unwrap_err().ends_with("is not a valid realm"));
    assert!(parse(64, 0).unwrap_err().ends_with("is not a valid realm"));
}

fn replaced(before: &Accounts, text: &str) -> Accounts {
    let mut accounts = Accounts::parse(text).unwrap();
    accounts.replace(before);
    accounts
}

fn changed(accounts: &Accounts) -> Vec<&str> {
    let mut changed: Vec<&str> = accounts.changed().iter().map(String::as_str).collect();
    changed.sort_unstable();
    changed
}

#[test]
fn a_new_file_tells_what_has_changed() {
    let before = Accounts::parse(testing::ACCOUNTS).unwrap();
    assert_eq!(changed(&replaced(&before, testing::ACCOUNTS)), [""; 0]);
    let disabled = testing::ACCOUNTS.replace("name = \"Child\"", "name = \"Child\"\nenabled = false");
    assert_eq!(changed(&replaced(&before, &disabled)), ["child"]);
    let moved = testing::ACCOUNTS.replacen("parent = \"system\"\n", "", 1);
    assert_eq!(changed(&replaced(&before, &moved)), ["below-closed", "child", "closed", "reseller"]);
    let other = "[[account]]\nid = \"new\"\nname = \"n\"\nrealm = \"r\"\n";
    assert_eq!(changed(&replaced(&before, other)).len(), 6, "the new one, and five that are gone");
}

#[test]
fn a_changed_file_is_reloaded() {
    let dir = testing::TempDir::new();
    let file = dir.write("accounts.toml", testing::ACCOUNTS);
    let accounts = Reloaded::<Accounts>::open(&file).unwrap();
    dir.write("accounts.toml", "[[account]]\nid = \"new\"\nname = \"n\"\nrealm = \"r\"\n");
    assert!(accounts.poll().unwrap().is_none());
    assert!(accounts.poll().unwrap().is_some());
    let ids: Vec<String> = accounts.current().iter().map(|account| account.id.clone()).collect();
    assert_eq!(ids, ["new"]);
}

#[test]
fn a_cycle_further_up_is_found() {
    let text = ["a b", "b c", "c b"]
        .map(|pair| {
            let (id, parent) = pair.split_once(' ').unwrap();
            format!("[[account]]\nid = {id:?}\nname = \"n\"\nrealm = {id:?}\nparent = {parent:?}\n")
        })
        .concat();
    assert!(Accounts::parse(&text).unwrap_err().contains("is its own ancestor"));
}

proptest! {
    /// A file is accepted exactly if every path of parents ends, according to a reference that follows each.
    #[test]
    fn files_are_accepted_exactly_if_they_have_no_cycle(
        parents in prop::collection::vec(prop::option::of(0usize..6), 1..6)
    ) {
        let mut text = String::new();
        for (id, parent) in parents.iter().enumerate() {
            text += &format!("[[account]]\nid = \"{id}\"\nname = \"\"\nrealm = \"r{id}\"\n");
            if let Some(parent) = parent {
                text += &format!("parent = \"{parent}\"\n");
            }
        }
        let valid = (0..parents.len()).all(|start| {
            let mut current = Some(start);
            for _ in 0..=parents.len() {
                current = match current {
                    None => return true,
                    Some(id) if id >= parents.len() => return false,
                    Some(id) => parents[id],
                };
            }
            current.is_none()
        });
        prop_assert_eq!(Accounts::parse(&text).is_ok(), valid, "{}", text);
    }
}
