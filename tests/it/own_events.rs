//! `auth.users = "own"`: a user who is no admin gets only what is the user's own, live, from the history, and after the user
//! has become an admin or has ceased to be one.

use std::{fs, sync::LazyLock};

use blackhole_dev::simulator::encode_word;
use blackhole_tests::{
    accounts::{self, Account},
    client::Client,
    events::{self, Event},
    eventually,
    stack::Stack,
};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// A family whose events name nobody.
const NAMELESS: &str = "qubicle.queue.*.*";
const BINDINGS: [&str; 4] = ["call.*.*", "presence.update.*", "presence.mwi_updates.*", "object.*.*"];

fn stack() -> &'static Stack {
    static STACK: LazyLock<Stack> = LazyLock::new(|| {
        let settings = [("AUTH__USERS", "own")];
        let start = || tokio::runtime::Runtime::new().unwrap().block_on(Stack::start_with("own", &settings));
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    });
    &STACK
}

/// A user of an account in the accounts file.
struct User<'a> {
    account: &'a Account,
    name: &'static str,
    is_admin: bool,
}

impl User<'_> {
    fn entry(&self) -> String {
        let User { account, name, is_admin } = self;
        let (id, account) = (self.id(), &account.id);
        format!(
            "[[user]]\nid = \"{id}\"\naccount = \"{account}\"\nadmin = {is_admin}\ndevices = [\"{name}-phone\"]\n\
             mailboxes = [\"{name}-mailbox\"]\npresence = [\"{name}-line\"]\n"
        )
    }

    fn id(&self) -> String {
        format!("user-{}", self.name)
    }

    fn token(&self) -> String {
        let claims = json!({ "iss": "kazoo", "account_id": self.account.id, "owner_id": self.id(), "exp": 4_102_444_800_u64 });
        accounts::signed(&claims)
    }

    async fn session(&self, bindings: &[&str]) -> Client {
        let mut client = Client::connect(&stack().edge.url("view=args")).await;
        client.subscribe_with(&self.token(), &self.account.id, bindings).await;
        client
    }
}

/// Changes the accounts file.
fn change(edit: impl FnOnce(String) -> String) {
    static FILE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FILE.lock();
    let file = stack().dir.path().join("accounts.toml");
    let text = edit(fs::read_to_string(&file).unwrap());
    fs::write(&file, text).unwrap();
}

fn call(account: &Account, call_id: &str, vars: Value) -> Event {
    let mut event = events::call(account, "CHANNEL_ANSWER", call_id);
    event.body["Custom-Channel-Vars"].as_object_mut().unwrap().extend(vars.as_object().unwrap().clone());
    event
}

fn presence(account: &Account, event: &str, id: &str, line: Option<&str>) -> Event {
    let key = format!("{event}.{}.{}", encode_word(&account.realm), encode_word(id));
    let line = line.map(|line| format!("{line}@{}", account.realm));
    events::any("presence", key, "update", json!({ "Call-ID": id, "Presence-ID": line }))
}

/// Something of each kind that is the user's own, whose ids begin with `mark`.
fn owned(user: &User<'_>, mark: &str) -> Vec<Event> {
    let User { account, name, .. } = user;
    let mut document = events::document(account, "doc_edited", "vmbox", &format!("{name}-mailbox"));
    document.body["Call-ID"] = format!("{mark} mailbox").into();
    let mut waiting = presence(account, "mwi_updates", &format!("{name}-line"), None);
    waiting.body["Call-ID"] = format!("{mark} messages").into();
    vec![
        call(account, &format!("{mark} user"), json!({ "Owner-ID": user.id(), "Authorizing-ID": "any" })),
        call(account, &format!("{mark} phone"), json!({ "Authorizing-ID": format!("{name}-phone") })),
        presence(account, "update", &format!("{mark} lamp"), Some(&format!("{name}-line"))),
        waiting,
        document,
    ]
}

/// Publishes what is owned by each, and what is nobody's own.
async fn publish_all(users: &[&User<'_>], round: &str) {
    let publisher = stack().publisher().await;
    for user in users {
        for event in owned(user, &format!("{} {round}", user.name)) {
            event.publish(&publisher).await;
        }
    }
    call(users[0].account, &format!("nobody {round}"), json!({})).publish(&publisher).await;
    for user in users {
        call(user.account, &format!("{} {round} end", user.name), json!({ "Owner-ID": user.id() }))
            .publish(&publisher)
            .await;
    }
}

/// The Call-IDs up to this one.
async fn until(client: &mut Client, last: &str) -> Vec<String> {
    let mut ids = Vec::new();
    loop {
        let id = client.event().await["args"]["Call-ID"].as_str().unwrap().to_owned();
        if id == last {
            return ids;
        }
        ids.push(id);
    }
}

fn all_of(name: &str, round: &str) -> Vec<String> {
    ["user", "phone", "lamp", "messages", "mailbox"].map(|kind| format!("{name} {round} {kind}")).to_vec()
}

#[tokio::test]
async fn users_get_their_own_events_and_admins_get_all() {
    let account = Account::fresh();
    let user = |name, is_admin| User { account: &account, name, is_admin };
    let (admin, alice, bob) = (user("alice", true), user("alice", false), user("bob", false));
    change(|text| text + &admin.entry() + &bob.entry());
    eventually("the new users", async || {
        let mut client = Client::connect(&stack().edge.url("")).await;
        let data = json!({ "account_id": account.id, "binding": NAMELESS });
        let request = json!({ "action": "subscribe", "auth_token": alice.token(), "data": data });
        client.request(request).await["status"] == "success"
    })
    .await;

    let mut bobs = bob.session(&BINDINGS).await;
    let mut session = alice.session(&BINDINGS).await;
    session.subscribe_with(&alice.token(), &account.id, &[NAMELESS]).await;
    publish_all(&[&bob, &alice], "one").await;
    let first = session.event().await;
    assert_eq!(first["args"]["Call-ID"], "bob one user", "an admin gets all");
    let seen = until(&mut session, "alice one end").await;
    assert!(
        seen.contains(&"nobody one".to_owned()) && seen.contains(&"bob one mailbox".to_owned()),
        "{seen:?}"
    );
    assert_eq!(until(&mut bobs, "bob one end").await, all_of("bob", "one"));

    // No admin any more.
    change(|text| text.replace(&admin.entry(), &alice.entry()));
    let reason =
        "events of qubicle do not say whose they are, and the token may have only those of its own user";
    let revoked = json!([{ "account_id": account.id, "binding": NAMELESS, "reason": reason }]);
    assert_eq!(session.frame().await["data"]["revoked"], revoked);
    publish_all(&[&bob, &alice], "two").await;
    assert_eq!(until(&mut session, "alice two end").await, all_of("alice", "two"));
    assert_eq!(until(&mut bobs, "bob two end").await, all_of("bob", "two"));

    // The history is as the present is now, whatever the cursor is of.
    let resume = async |user: &User<'_>| {
        let mut client = Client::connect(&stack().edge.url("view=args")).await;
        let data = json!({ "account_id": account.id, "bindings": BINDINGS, "since": first["cursor"] });
        let request = json!({ "action": "subscribe", "auth_token": user.token(), "data": data });
        let reply = client.request(request).await;
        assert_eq!(reply["data"]["recovered"], true, "{reply}");
        client
    };
    let mut resumed = resume(&alice).await;
    assert_eq!(until(&mut resumed, "alice one end").await, all_of("alice", "one"));
    assert_eq!(until(&mut resumed, "alice two end").await, all_of("alice", "two"));
    let mut resumed = resume(&bob).await;
    // After the cursor's frame.
    assert_eq!(until(&mut resumed, "bob one end").await, all_of("bob", "one")[1..]);

    // An admin again.
    change(|text| text.replace(&alice.entry(), &admin.entry()));
    let publisher = stack().publisher().await;
    let mut number = 0;
    loop {
        number += 1;
        let (theirs, own) = (format!("bob {number}"), format!("alice {number}"));
        call(&account, &theirs, json!({ "Owner-ID": bob.id() })).publish(&publisher).await;
        call(&account, &own, json!({ "Owner-ID": alice.id() })).publish(&publisher).await;
        if until(&mut session, &own).await.contains(&theirs) {
            break;
        }
    }
    let seen = until(&mut resume(&alice).await, "alice two end").await;
    assert!(
        seen.contains(&"bob two phone".to_owned()) && seen.contains(&"nobody two".to_owned()),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_user_is_told_what_is_not_to_be_had() {
    let account = Account::fresh();
    let stranger = User { account: &account, name: "stranger", is_admin: false };
    let mut client = Client::connect(&stack().edge.url("view=args")).await;
    let mut errors = async |account_id: &str, binding: &str| {
        let data = json!({ "account_id": account_id, "binding": binding });
        let request = json!({ "action": "subscribe", "auth_token": stranger.token(), "data": data });
        client.request(request).await["data"]["errors"][0].as_str().map(str::to_owned)
    };
    for (family, binding) in [
        ("conference", "conference.command.c1"),
        ("fax", "fax.object.*"),
        ("stream", "stream.*.*"),
        ("live", "live.conference.chat.*"),
        ("dialog", "dialog.event.*.*"),
        ("qubicle", "qubicle.session"),
    ] {
        let text = format!(
            "events of {family} do not say whose they are, and the token may have only those of its own user"
        );
        assert_eq!(errors(&account.id, binding).await, Some(text));
    }
    assert_eq!(errors("*", "call.*.*").await.as_deref(), Some("unauthorized wildcard account id"));
    assert_eq!(errors(accounts::TOP, "call.*.*").await.as_deref(), Some("unauthorized account id"));
    // A user that no source knows has only what names the user.
    assert_eq!(errors(&account.id, "call.*.*").await, None);
    let publisher = stack().publisher().await;
    for (call_id, vars) in [
        ("theirs", json!({ "Owner-ID": "another" })),
        ("of nobody", json!({})),
        ("own", json!({ "Owner-ID": stranger.id() })),
    ] {
        call(&account, call_id, vars).publish(&publisher).await;
    }
    assert_eq!(client.event().await["args"]["Call-ID"], "own");
}

#[tokio::test]
async fn tokens_of_no_user_get_all_of_their_account() {
    let account = Account::fresh();
    let mut client = Client::connect(&stack().edge.url("view=args")).await;
    client.subscribe(&account, &["call.*.*", NAMELESS]).await;
    call(&account, "any", json!({ "Owner-ID": "another" })).publish(&stack().publisher().await).await;
    assert_eq!(client.event().await["args"]["Call-ID"], "any");
}
