use futures_util::future::{self, BoxFuture};
use proptest::prelude::*;

use super::*;
use crate::{accounts::Accounts, claims::VerifiedToken, reload::Reloaded, testing};

/// A token is its account's id; `bad` is none, `later` cannot be told.
struct PlainTokens;

impl TokenVerifier for PlainTokens {
    fn verify<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<VerifiedToken, Error>> {
        Box::pin(future::ready(match token {
            "bad" => Err(Refusal::Signature.into()),
            "later" => Err(Error::Unavailable { what: "keys", reason: "away".into() }),
            id => Ok(VerifiedToken {
                account_id: id.into(),
                expires_at: 9,
                owner_id: None,
                token_id: "t".into(),
            }),
        }))
    }
}

fn authority(accounts: &str) -> Authority {
    let dir = testing::TempDir::new();
    let file = dir.write("accounts.toml", accounts);
    Authority::new(Arc::new(PlainTokens), Arc::new(Reloaded::<Accounts>::open(&file).unwrap()))
}

fn ask(authority: &Authority, token: &str, wanted: Option<&str>) -> Result<Answer, Error> {
    let request = AuthRequest { token: token.into(), account_id: wanted.map(str::to_owned) };
    // Every future here is ready at once.
    futures_util::FutureExt::now_or_never(authority.answer(&request)).unwrap()
}

fn access(authority: &Authority, token: &str, wanted: Option<&str>) -> Access {
    match ask(authority, token, wanted).unwrap().reply {
        AuthReply::Accepted { access, .. } => access,
        AuthReply::Refused { reason } => panic!("{token}: {reason}"),
    }
}

#[test]
fn the_tokens_own_account_is_the_default() {
    let authority = authority(testing::ACCOUNTS);
    let own = Access::Account { account_id: "child".into(), realm: Some("child.example.com".into()) };
    assert_eq!(access(&authority, "child", None), own);
    assert_eq!(access(&authority, "child", Some("child")), own);
    let answer = ask(&authority, "system", None).unwrap();
    let bearer = Bearer {
        account_id: "system".into(),
        expires_at: 9,
        superduper_admin: true,
        token_id: Some("t".into()),
    };
    let Access::Account { account_id, .. } = access(&authority, "system", None) else { panic!() };
    assert_eq!(account_id, "system");
    assert!(matches!(answer.reply, AuthReply::Accepted { bearer: told, .. } if told == bearer));
}

#[test]
fn accounts_are_seen_from_themselves_and_from_above() {
    let authority = authority(testing::ACCOUNTS);
    for (bearer, wanted, expected) in [
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
        let answer = ask(&authority, bearer, Some(wanted)).unwrap();
        assert_eq!(answer.reason, expected.map(Denial::kind), "{bearer} -> {wanted}");
        let access = access(&authority, bearer, Some(wanted));
        match expected {
            Some(denial) => assert_eq!(access, Access::Denied { reason: denial.reason().into() }),
            None => assert!(matches!(access, Access::Account { account_id, .. } if account_id == wanted)),
        }
    }
    assert_eq!(access(&authority, "system", Some("*")), Access::All);
}

#[test]
fn tokens_of_accounts_that_are_gone_or_disabled_are_refused() {
    let authority = authority(testing::ACCOUNTS);
    for (token, wanted, refusal) in [
        ("nobody", None, Refusal::UnknownAccount),
        ("nobody", Some("child"), Refusal::UnknownAccount),
        ("closed", None, Refusal::DisabledAccount),
        ("closed", Some("below-closed"), Refusal::DisabledAccount),
        ("*", Some("*"), Refusal::UnknownAccount),
        ("bad", None, Refusal::Signature),
    ] {
        let reply = AuthReply::Refused { reason: refusal.to_string() };
        assert_eq!(ask(&authority, token, wanted).unwrap(), Answer { reply, reason: Some(refusal.kind()) });
    }
}

#[test]
fn no_verdict_is_no_refusal() {
    let error = ask(&authority(testing::ACCOUNTS), "later", None).unwrap_err();
    assert_eq!(error.kind(), "unavailable");
}

#[derive(Clone, Debug)]
struct Node {
    /// Smaller than the node's own number, so that there is no circle.
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
    /// Against a reference that walks up the tree node by node.
    #[test]
    fn access_is_what_the_tree_says(forest in forests()) {
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
            for (b, wanted) in forest.iter().enumerate() {
                let mut here = Some(b);
                let mut below = false;
                while let Some(id) = here {
                    below |= id == a;
                    here = forest[id].parent;
                }
                let reply = ask(&authority, &a.to_string(), Some(&b.to_string())).unwrap().reply;
                let sees = matches!(
                    &reply,
                    AuthReply::Accepted { access: Access::Account { account_id, .. }, .. } if *account_id == b.to_string()
                );
                prop_assert_eq!(sees, bearer.enabled && below && wanted.enabled, "{} -> {}: {:?}", a, b, reply);
            }
        }
    }
}
