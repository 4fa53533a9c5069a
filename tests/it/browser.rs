//! The example clients in a real Chromium, opened from files as a newcomer opens them: what happens in KAZOO
//! appears in the browser's console.

use std::path::{Path, PathBuf};

use blackhole_dev::workspace::RunDir;
use blackhole_tests::{
    accounts::Account,
    browser::Browser,
    events::{self, Event},
    stack::Stack,
};
use serde_json::{Value, json};

const CONFERENCE: &str = "conference-of-the-example";
/// What both examples subscribe to, in this order.
const BINDINGS: [&str; 3] =
    ["call.CHANNEL_CREATE.*", "conference.event.conference-of-the-example.*", "doc_created.*.user.*"];

/// One event for each of the examples' bindings.
fn wanted(account: &Account) -> Vec<Event> {
    vec![
        events::call(account, "CHANNEL_CREATE", "1f3c9a.77e2@10.0.4.17"),
        events::conference(account, "add-member", CONFERENCE, "participant"),
        events::document(account, "doc_created", "user", "new-user"),
    ]
}

/// What nobody asked for: other names, another conference, another type, another account.
fn unwanted(account: &Account) -> Vec<Event> {
    let mut events = vec![
        events::call(account, "CHANNEL_DESTROY", "unwanted"),
        events::conference(account, "add-member", "other-conference", "unwanted"),
        events::document(account, "doc_edited", "user", "unwanted"),
        events::document(account, "doc_created", "device", "unwanted"),
    ];
    events.extend(wanted(&Account::fresh()));
    events
}

/// With the page in front, what happens in KAZOO appears in its console: exactly what it asked for, as published.
async fn sees_what_happens(browser: &Browser, account: &Account, request_id: &str) -> Vec<Value> {
    assert_eq!(browser.text("self.origin").await, "null", "the origin of a page from a file");
    let replies = browser.logged_frames("reply", BINDINGS.len()).await;
    for (reply, binding) in replies.iter().zip(BINDINGS) {
        assert_eq!(
            (&reply["status"], &reply["request_id"]),
            (&json!("success"), &json!(request_id)),
            "{reply}"
        );
        assert_eq!(reply["data"]["subscribed"], json!([binding]));
    }

    let publisher = Stack::shared().publisher().await;
    let wanted = wanted(account);
    // Events of one queue keep their order, so the unwanted ones would be there before the last wanted one.
    for event in unwanted(account).iter().chain(&wanted) {
        event.publish(&publisher).await;
    }
    let seen = browser.logged_frames("event", wanted.len()).await;
    assert_eq!(seen.len(), wanted.len(), "{seen:#?}");
    for (event, binding) in wanted.iter().zip(BINDINGS) {
        let frame = seen.iter().find(|frame| frame["subscribed_key"] == binding);
        let frame = frame.unwrap_or_else(|| panic!("nothing for {binding}: {seen:#?}"));
        assert_eq!(frame["name"], event.body["Event-Name"]);
        assert_eq!(frame["args"], event.body, "the body as it was published");
        assert_eq!(frame["request_id"], request_id);
    }
    seen
}

fn our_example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/example.html").canonicalize().unwrap()
}

/// A copy of a page with these replacements, each of which has to be there to be made.
fn with_placeholders_replaced(dir: &RunDir, page: &str, replacements: &[(&str, &str)]) -> PathBuf {
    let replace = |page: String, (placeholder, value): &(&str, &str)| {
        assert!(page.contains(placeholder), "{placeholder} is not in the page");
        page.replace(placeholder, value)
    };
    let file = dir.path().join("example.html");
    std::fs::write(&file, replacements.iter().fold(page.to_owned(), replace)).unwrap();
    file
}

#[tokio::test]
async fn our_example_takes_its_values_from_its_address() {
    let account = Account::fresh();
    let browser = Browser::open().await;
    browser.record_console().await;
    let url = Stack::shared().edge.url("view=both");
    let values = [
        ("url", url.as_str()),
        ("account", &account.id),
        ("token", &account.token()),
        ("conference", CONFERENCE),
    ];
    let fragment = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(values).finish();
    browser.goto_file(&our_example(), Some(&fragment)).await;
    let seen = sees_what_happens(&browser, &account, "example-1").await;

    // What is in the console is on the page too.
    browser.until("document.querySelectorAll('#messages li').length === 6").await;
    assert!(
        browser.text("document.getElementById('state').textContent").await.starts_with("Connected to ws://")
    );
    let lines = browser
        .script("return [...document.querySelectorAll('#messages li')].map((line) => line.textContent)")
        .await;
    let lines = lines
        .as_array()
        .unwrap()
        .iter()
        .map(|line| serde_json::from_str::<Value>(line.as_str().unwrap()).unwrap());
    assert_eq!(lines.filter(|line| line["action"] == "event").collect::<Vec<_>>(), seen);
    assert_eq!(browser.complaints().await, [""; 0]);
    browser.close().await;
}

#[tokio::test]
async fn our_example_works_with_its_placeholders_replaced() {
    let account = Account::fresh();
    let dir = RunDir::create("example").unwrap();
    let page = std::fs::read_to_string(our_example()).unwrap();
    let place = format!("127.0.0.1:{}", Stack::shared().edge.port);
    let replacements = [
        ("{BLACKHOLE_HOST}:5555", place.as_str()),
        ("{ACCOUNT_ID}", &account.id),
        ("{AUTH_TOKEN}", &account.token()),
        ("{CONFERENCE_ID}", CONFERENCE),
    ];
    let browser = Browser::open().await;
    browser.record_console().await;
    browser.goto_file(&with_placeholders_replaced(&dir, &page, &replacements), None).await;
    sees_what_happens(&browser, &account, "example-1").await;
    browser.close().await;
    dir.remove().unwrap();
}

#[tokio::test]
async fn our_example_says_what_is_missing() {
    let browser = Browser::open().await;
    browser.goto_file(&our_example(), None).await;
    let state = browser.text("document.getElementById('state').textContent").await;
    assert_eq!(state, "Replace the constants in this file first, or give them in the address.");

    // A server that is not there: the page says so, and what it knows.
    browser.record_console().await;
    let nobody = blackhole_dev::ports::free().unwrap();
    browser.goto("about:blank").await;
    browser.goto_file(&our_example(), Some(&format!("url=ws://127.0.0.1:{nobody}"))).await;
    browser
        .until("document.getElementById('state').textContent.startsWith('Connection closed: code 1006')")
        .await;
    // So a failed connection is among what other tests assert to be empty.
    let complaints = browser.complaints().await;
    let expected = format!("WebSocket connection to 'ws://127.0.0.1:{nobody}/");
    assert!(complaints.iter().any(|complaint| complaint.contains(&expected)), "{complaints:?}");

    // A token that is refused: the reason is in the console and on the page.
    let url = Stack::shared().edge.url("");
    browser.goto("about:blank").await;
    browser.goto_file(&our_example(), Some(&format!("url={url}&account=a&token=nonsense"))).await;
    for reply in browser.logged_frames("reply", BINDINGS.len()).await {
        let error = reply["data"]["errors"][0].as_str().unwrap();
        assert!(error.starts_with("failed to authenticate token "), "{error}");
    }
    browser.close().await;
}

/// The example client on KAZOO's own page, which a clone of this project does not have.
fn the_pages_example() -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/seed/blackhole.txt");
    let page = std::fs::read_to_string(&file).ok()?;
    let (_, example) = page.split_once("Example Client#").unwrap();
    let begin = example.find("<html>").unwrap();
    let end = example.find("</html>").unwrap();
    Some(example[begin..end].to_owned() + "</html>")
}

#[tokio::test]
async fn the_pages_own_example_works_unchanged() {
    let Some(page) = the_pages_example() else {
        println!("skipped: ../shared/seed/blackhole.txt is not there");
        return;
    };
    let account = Account::fresh();
    let dir = RunDir::create("seed").unwrap();
    // The page tells to replace the default 5555 as well.
    let place = format!("127.0.0.1:{}", Stack::shared().edge.port);
    let replacements = [
        ("{BLACKHOLE_IP_ADDRESS}:5555", place.as_str()),
        ("{AUTH_TOKEN}", &account.token()),
        ("{ACCOUNT_ID}", &account.id),
        ("{REQUEST_ID}", "any random number"),
        ("{CONFERENCE_ID}", CONFERENCE),
    ];
    let file = with_placeholders_replaced(&dir, &page, &replacements);
    let browser = Browser::open().await;
    browser.record_console().await;
    browser.goto_file(&file, None).await;
    sees_what_happens(&browser, &account, "any random number").await;
    browser.close().await;
    dir.remove().unwrap();
}
