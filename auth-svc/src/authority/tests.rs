use proptest::prelude::*;

use super::*;
use crate::testing::{self, authority};

fn ask(authority: &Authority, token: &str, requested: Option<&str>) -> Result<Answer, Error> {
    let request = AuthRequest { token: token.into(), account_id: requested.map(str::to_owned) };
    // All futures here complete immediately.
    futures_util::FutureExt::now_or_never(authority.answer(&request)).unwrap()
}

fn access(authority: &Authority, token: &str, requested: Option<&str>) -> Access {
    match ask(authority, token, requested).unwrap().reply {
        AuthReply::Accepted { access, .. } => access,
        AuthReply::Refused { reason } => panic!("{token}: {reason}"),
    }
}

#[test]
fn the_tokens_own_account_is_the_default() {
    let authority = authority(testing::ACCOUNTS);
    for (id, superduper_admin) in [("child", false), ("system", true)] {
        let bearer = Bearer {
            account_id: id.into(),
            expires_at: 9,
            superduper_admin,
            token_id: Some(format!("id of {id}")),
        };
        let own = Access::Account {
            account_id: id.into(),
            realm: Some(format!("{id}.example.com")),
            realm_since_ms: None,
        };
        let expected = Answer { reply: AuthReply::Accepted { bearer, access: own }, reason: None };
        assert_eq!(ask(&authority, id, None).unwrap(), expected);
        assert_eq!(ask(&authority, id, Some(id)).unwrap(), expected);
    }
}

#[test]
fn tokens_can_access_their_account_and_accounts_below() {
    let authority = authority(testing::ACCOUNTS);
    for (bearer, requested, expected) in [
        ("system", "child", None),
        ("reseller", "child", None),
        ("reseller", "system", Some(Denial::NotBelow)),
        ("child", "reseller", Some(Denial::NotBelow)),
        ("child", "nobody", Some(Denial::Unknown)),
        ("child", "", Some(Denial::Unknown)),
        ("child", "child.>", Some(Denial::Unknown)),
        ("child", "_", Some(Denial::Unknown)),
        ("reseller", "closed", Some(Denial::Disabled)),
        ("child", "closed", Some(Denial::NotBelow)),
        ("reseller", "below-closed", None),
        ("below-closed", "below-closed", None),
        ("reseller", "*", Some(Denial::NotSuperduper)),
        ("child", "*", Some(Denial::NotSuperduper)),
    ] {
        let answer = ask(&authority, bearer, Some(requested)).unwrap();
        assert_eq!(answer.reason, expected.map(Denial::kind), "{bearer} -> {requested}");
        let access = access(&authority, bearer, Some(requested));
        match expected {
            Some(denial) => assert_eq!(access, Access::Denied { reason: denial.reason().into() }),
            None => assert!(matches!(access, Access::Account { account_id, .. } if account_id == requested)),
        }
    }
    assert_eq!(access(&authority, "system", Some("*")), Access::All);
}

#[test]
fn tokens_of_missing_or_disabled_accounts_are_refused() {
    let authority = authority(testing::ACCOUNTS);
    for (token, requested, refusal) in [
        ("nobody", None, Refusal::UnknownAccount),
        ("nobody", Some("child"), Refusal::UnknownAccount),
        ("closed", None, Refusal::DisabledAccount),
        ("closed", Some("below-closed"), Refusal::DisabledAccount),
        ("*", Some("*"), Refusal::UnknownAccount),
        ("bad", None, Refusal::Signature),
        ("below child: reseller", None, Refusal::IssuerAccount),
        ("below child: reseller", Some("child"), Refusal::IssuerAccount),
        ("below child: closed", None, Refusal::IssuerAccount),
        ("below child: nobody", None, Refusal::UnknownAccount),
    ] {
        let reply = AuthReply::Refused { reason: refusal.to_string() };
        let expected = Answer { reply, reason: Some(refusal.kind()) };
        assert_eq!(ask(&authority, token, requested).unwrap(), expected);
    }
}

#[test]
fn an_unavailable_verifier_is_an_error_and_not_a_refusal() {
    let error = ask(&authority(testing::ACCOUNTS), "later", None).unwrap_err();
    assert_eq!(error.kind(), "unavailable");
}

#[test]
fn an_issuer_may_name_its_accounts_and_those_below() {
    let authority = authority(testing::ACCOUNTS);
    for token in ["below reseller: reseller", "below reseller: child", "below child: child"] {
        assert!(matches!(access(&authority, token, Some("child")), Access::Account { .. }), "{token}");
    }
}

#[test]
fn an_issuers_token_sees_no_more_than_is_listed() {
    let authority = authority(testing::ACCOUNTS);
    let not_listed = Access::Denied { reason: Denial::NotListed.reason().into() };
    for (token, requested) in [
        ("only reseller: reseller", "child"),
        ("only reseller: reseller", "*"),
        ("only system: system", "*"),
        ("only system: system", "reseller"),
        ("below system: system", "*"),
    ] {
        assert_eq!(access(&authority, token, Some(requested)), not_listed, "{token} {requested}");
    }
    for (token, expected) in
        [("system", true), ("only system: system", false), ("below system: system", false)]
    {
        let AuthReply::Accepted { bearer, .. } = ask(&authority, token, None).unwrap().reply else {
            panic!()
        };
        assert_eq!(bearer.superduper_admin, expected, "{token}");
    }
    assert!(matches!(access(&authority, "below system: system", Some("child")), Access::Account { .. }));
}

#[derive(Clone, Debug)]
struct Node {
    /// Less than the node's own index, so that there is no cycle.
    parent: Option<usize>,
    enabled: bool,
    superduper_admin: bool,
}

fn forests() -> impl Strategy<Value = Vec<Node>> {
    let node = (prop::option::weighted(0.8, any::<prop::sample::Index>()), any::<bool>(), any::<bool>());
    prop::collection::vec(node, 1..12).prop_map(|nodes| {
        nodes
            .into_iter()
            .enumerate()
            .map(|(number, (parent, enabled, superduper_admin))| Node {
                parent: parent.filter(|_| number > 0).map(|index| index.index(number)),
                enabled,
                superduper_admin,
            })
            .collect()
    })
}

proptest! {
    /// Compares with a reference that walks up the tree node by node.
    #[test]
    fn access_follows_the_tree(forest in forests()) {
        let text: String = forest.iter().enumerate().map(|(id, node)| {
            let parent = node.parent.map(|parent| format!("parent = \"{parent}\"\n")).unwrap_or_default();
            format!(
                "[[account]]\nid = \"{id}\"\nname = \"\"\nrealm = \"r{id}\"\nenabled = {}\nsuperduper_admin = {}\n{parent}",
                node.enabled, node.superduper_admin
            )
        }).collect();
        let authority = authority(&text);
        for (a, bearer) in forest.iter().enumerate() {
            let all = ask(&authority, &a.to_string(), Some("*")).unwrap().reply;
            let sees_all = matches!(all, AuthReply::Accepted { access: Access::All, .. });
            prop_assert_eq!(sees_all, bearer.enabled && bearer.superduper_admin);
            for (b, requested) in forest.iter().enumerate() {
                let mut current = Some(b);
                let mut below = false;
                while let Some(id) = current {
                    below |= id == a;
                    current = forest[id].parent;
                }
                let reply = ask(&authority, &a.to_string(), Some(&b.to_string())).unwrap().reply;
                let sees = matches!(
                    &reply,
                    AuthReply::Accepted { access: Access::Account { account_id, .. }, .. } if *account_id == b.to_string()
                );
                prop_assert_eq!(sees, bearer.enabled && below && requested.enabled, "{} -> {}: {:?}", a, b, reply);
            }
        }
    }
}
