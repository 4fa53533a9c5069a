//! The recipes of docs/client.md do what the page says.

use super::*;
use blackhole_tests::crossbar::Crossbar;

/// A recipe that runs.
struct Recipe {
    process: Process,
    out: PathBuf,
    dir: RunDir,
}

impl Recipe {
    /// Starts `docs/recipes/NAME` as its users would: with the package installed, and these variables.
    fn start(name: &str, url: &str, account: &Account, more: &[(&str, &str)]) -> Recipe {
        let dir = RunDir::create("recipe").unwrap();
        let (file, out) = (dir.path().join(name), dir.path().join("out"));
        let recipe = package().join("../../../docs/recipes").join(name);
        let page = std::fs::read_to_string(package().join("../../../docs/client.md")).unwrap();
        let program = std::fs::read_to_string(recipe).unwrap();
        assert!(page.contains(program.trim_end()), "docs/client.md does not show {name} as it is");
        std::fs::write(&file, program).unwrap();
        let spec = if name.ends_with(".py") {
            let python = tools::python();
            let spec = Spec::new(python.get_program()).arg(&file);
            python.get_envs().fold(spec, |spec, (name, value)| spec.env(name, value.unwrap()))
        } else {
            let modules = dir.path().join("node_modules");
            std::fs::create_dir(&modules).unwrap();
            std::os::unix::fs::symlink(package(), modules.join("blackhole-events")).unwrap();
            Spec::new(node()).arg(&file)
        };
        let spec = spec.env("EVENTS_URL", url).env("TOKEN", account.token()).env("ACCOUNT_ID", &account.id);
        let spec = more.iter().fold(spec, |spec, (name, value)| spec.env(*name, *value));
        Recipe { process: Process::start(&spec.stdout(&out)).unwrap(), out, dir }
    }

    async fn until(&self, text: &str) {
        eventually(text, async || self.printed().lines().any(|line| line == text)).await;
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// Waits until it has ended by itself, without an error.
    async fn ended(&self) {
        assert!(soon("the program's end", self.process.exited()).await.unwrap().success());
    }

    /// Ends it, and returns what it has printed.
    async fn stop(self) -> Vec<String> {
        self.process.kill().await.unwrap();
        let lines = self.printed().lines().map(str::to_owned).collect();
        self.dir.remove().unwrap();
        lines
    }
}

fn url() -> String {
    Stack::shared().edge.url("view=args")
}

/// A call event with more members.
fn call(account: &Account, name: &str, id: &str, more: Value) -> Event {
    let mut event = events::call(account, name, id);
    event.body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

async fn publish(events: &[Event]) {
    let publisher = Stack::shared().publisher().await;
    for event in events {
        event.publish(&publisher).await;
    }
}

fn update(account: &Account, user: &str, call_id: &str, state: &str) -> Event {
    let key = format!("update.{}.{call_id}", account.realm.replace('.', "%2E"));
    let presence = format!("{user}@{}", account.realm);
    events::any(
        "presence",
        key,
        "update",
        json!({ "Presence-ID": presence, "Call-ID": call_id, "State": state }),
    )
}

fn messages(account: &Account, user: &str, new: u64) -> Event {
    let key = format!("mwi_updates.{}.{user}", account.realm.replace('.', "%2E"));
    let to = format!("{user}@{}", account.realm);
    events::any("presence", key, "mwi_update", json!({ "To": to, "Messages-New": new }))
}

fn fax(account: &Account, state: &str, status: &str) -> Event {
    let mut event = events::fax(account, "f1");
    event.body["Fax-State"] = state.into();
    event.body["Status"] = status.into();
    event
}

#[tokio::test]
async fn screen_pop() {
    let account = Account::fresh();
    let recipe = Recipe::start("screen-pop.mjs", &url(), &account, &[("EXTENSION", "1001")]);
    recipe.until("ready").await;
    let leg = |direction: &str, to: &str, from: &str| {
        let more = json!({ "Call-Direction": direction, "Callee-ID-Number": to, "Caller-ID-Number": from });
        call(&account, "CHANNEL_CREATE", "a", more)
    };
    publish(&[
        leg("inbound", "1001", "+1"),
        leg("outbound", "1002", "+2"),
        leg("outbound", "1001", "+14155550142"),
    ])
    .await;
    let opened = "open https://crm.example.com/search?phone=%2B14155550142";
    recipe.until(opened).await;
    assert_eq!(recipe.stop().await, ["ready", opened]);
}

#[tokio::test]
async fn wallboard() {
    let account = Account::fresh();
    let event = |name: &str, id: &str| events::call(&account, name, id);
    publish(&[event("CHANNEL_CREATE", "a"), event("CHANNEL_ANSWER", "b")]).await;
    until_kept(Stack::shared(), &account, &["call.*.*"], 2).await;
    let recipe = Recipe::start("wallboard.mjs", &url(), &account, &[]);
    recipe.until("ringing 1, talking 1, held 0").await;
    publish(&[event("CHANNEL_ANSWER", "a"), event("CHANNEL_HOLD", "b")]).await;
    publish(&[event("CHANNEL_DESTROY", "a"), event("CHANNEL_DESTROY", "b")]).await;
    recipe.until("ringing 0, talking 0, held 0").await;
    assert_eq!(
        recipe.stop().await,
        [
            "ringing 1, talking 1, held 0",
            "ringing 0, talking 2, held 0",
            "ringing 0, talking 1, held 1",
            "ringing 0, talking 0, held 1",
            "ringing 0, talking 0, held 0",
        ]
    );
}

#[tokio::test]
async fn click_to_call() {
    let (account, crossbar) = (Account::fresh(), Crossbar::start().await);
    let crossbar_url = crossbar.url();
    let edge = Stack::shared().another_edge("edge-click", &[("WS__CROSSBAR_URL", &crossbar_url)]).await;
    let more = [("USER_ID", "ann"), ("NUMBER", "+14155550142")];
    let recipe = Recipe::start("click-to-call.mjs", &edge.url("view=args"), &account, &more);
    recipe.until("asked").await;
    let asked = crossbar.take_requests();
    let target = format!("/v2/accounts/{}/users/ann/quickcall/%2B14155550142", account.id);
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("GET", target.as_str()));
    let leg = |name: &str| {
        let more = json!({ "Callee-ID-Number": "+14155550142", "Hangup-Cause": "NORMAL_CLEARING" });
        call(&account, name, "a", more)
    };
    publish(&[leg("CHANNEL_CREATE"), leg("CHANNEL_ANSWER"), leg("CHANNEL_DESTROY")]).await;
    recipe.ended().await;
    assert_eq!(recipe.stop().await, ["asked", "ringing", "talking", "ended: NORMAL_CLEARING"]);
}

#[tokio::test]
async fn crm_log() {
    let account = Account::fresh();
    let dir = RunDir::create("place").unwrap();
    let place = dir.path().join("place");
    let more = [("PLACE_FILE", place.to_str().unwrap())];
    let ended = |from: &str| {
        let more = json!({ "Caller-ID-Number": from, "Duration-Seconds": "32" });
        call(&account, "CHANNEL_DESTROY", from, more)
    };
    let line = |from: &str| {
        format!(
            "{{\"Caller-ID-Number\": \"{from}\", \"Callee-ID-Number\": null, \"Duration-Seconds\": \"32\", \"Hangup-Cause\": null}}"
        )
    };
    let first = Recipe::start("crm-log.py", &url(), &account, &more);
    first.until("ready").await;
    publish(&[ended("1001")]).await;
    first.until(&line("1001")).await;
    eventually("the place", async || place.is_file()).await;
    assert_eq!(first.stop().await, ["ready".to_owned(), line("1001")]);
    publish(&[ended("1002")]).await;
    let second = Recipe::start("crm-log.py", &url(), &account, &more);
    second.until(&line("1002")).await;
    assert_eq!(second.stop().await, ["ready".to_owned(), line("1002")]);
}

#[tokio::test]
async fn presence_lamps() {
    let account = Account::fresh();
    publish(&[update(&account, "1001", "a", "early")]).await;
    let recipe = Recipe::start("presence-lamps.mjs", &url(), &account, &[]);
    recipe.until("1001 blinks").await;
    publish(&[
        update(&account, "1001", "a", "confirmed"),
        update(&account, "1001", "b", "early"),
        update(&account, "1001", "a", "terminated"),
        update(&account, "1001", "b", "terminated"),
    ])
    .await;
    recipe.until("1001 off").await;
    assert_eq!(recipe.stop().await, ["1001 blinks", "1001 on", "1001 on", "1001 blinks", "1001 off"]);
}

#[tokio::test]
async fn voicemail_badge() {
    let account = Account::fresh();
    publish(&[messages(&account, "1001", 2)]).await;
    let recipe = Recipe::start("voicemail-badge.py", &url(), &account, &[]);
    recipe.until("1001 2").await;
    publish(&[messages(&account, "1002", 1), messages(&account, "1001", 0)]).await;
    recipe.until("1001 0").await;
    assert_eq!(recipe.stop().await, ["1001 2", "1002 1", "1001 0"]);
}

#[tokio::test]
async fn fax_status() {
    let account = Account::fresh();
    publish(&[fax(&account, "send", "negotiated 14400")]).await;
    let recipe = Recipe::start("fax-status.py", &url(), &account, &[]);
    recipe.until("f1 send: negotiated 14400").await;
    let mut last = fax(&account, "end", "done");
    last.body["Page"] = 2.into();
    publish(&[last]).await;
    recipe.until("f1 end: done, page 2").await;
    assert_eq!(recipe.stop().await, ["f1 send: negotiated 14400", "f1 end: done, page 2"]);
}

#[tokio::test]
async fn follow_one_call() {
    let account = Account::fresh();
    let id = "1f3c9a.77e2@10.0.4.17";
    publish(&[
        events::call(&account, "CHANNEL_CREATE", id),
        events::call(&account, "CHANNEL_CREATE", "other"),
    ])
    .await;
    let recipe = Recipe::start("follow-one-call.mjs", &url(), &account, &[("CALL_ID", id)]);
    recipe.until("CHANNEL_CREATE").await;
    publish(&[events::call(&account, "CHANNEL_DESTROY", id)]).await;
    recipe.ended().await;
    // The stream may be younger than five minutes, or not.
    assert_eq!(recipe.stop().await, ["CHANNEL_CREATE", "CHANNEL_DESTROY"]);
}

#[tokio::test]
async fn document_cache() {
    let (account, crossbar) = (Account::fresh(), Crossbar::start().await);
    let crossbar_url = crossbar.url();
    let edge = Stack::shared().another_edge("edge-cache", &[("WS__CROSSBAR_URL", &crossbar_url)]).await;
    let recipe = Recipe::start("document-cache.py", &edge.url("view=args"), &account, &[]);
    recipe.until("['ann']").await;
    publish(&[
        events::document(&account, "doc_created", "user", "ben"),
        events::document(&account, "doc_deleted", "user", "ann"),
    ])
    .await;
    recipe.until("['ben']").await;
    assert_eq!(recipe.stop().await, ["['ann']", "['ann', 'ben']", "['ben']"]);
    let asked: Vec<String> = crossbar.take_requests().into_iter().map(|request| request.target).collect();
    let users = format!("/v2/accounts/{}/users", account.id);
    assert_eq!(asked, [format!("{users}?paginate=false"), format!("{users}/ben")]);
}

#[tokio::test]
async fn alerts() {
    let account = Account::fresh();
    let recipe = Recipe::start("alerts.py", &url(), &account, &[]);
    recipe.until("ready").await;
    let notification = events::any(
        "notifications",
        "notifications.voicemail.full".into(),
        "voicemail_full",
        json!({ "Event-Category": "notification", "Account-ID": account.id }),
    );
    publish(&[
        call(&account, "PARK_ABANDONED", "a", json!({ "Caller-ID-Number": "+14155550142" })),
        fax(&account, "send", "calling"),
        fax(&account, "error", "no carrier"),
        notification,
    ])
    .await;
    recipe.until("ALERT notification voicemail_full").await;
    assert_eq!(
        recipe.stop().await,
        [
            "ready",
            "ALERT +14155550142 hung up while parked",
            "ALERT fax f1 failed: no carrier",
            "ALERT notification voicemail_full",
        ]
    );
}
