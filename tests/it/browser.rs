//! The example clients in a real Chromium, opened from files: events of KAZOO appear in the browser's console.

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
/// The bindings of both examples, in this order.
const BINDINGS: [&str; 3] =
    ["call.CHANNEL_CREATE.*", "conference.event.conference-of-the-example.*", "doc_created.*.user.*"];

/// One event for each binding.
fn wanted(account: &Account) -> Vec<Event> {
    vec![
        events::call(account, "CHANNEL_CREATE", "1f3c9a.77e2@10.0.4.17"),
        events::conference(account, "add-member", CONFERENCE, "participant"),
        events::document(account, "doc_created", "user", "new-user"),
    ]
}

/// Events that match no binding: other names, another conference, another type, another account.
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

/// Publishes events and asserts that exactly the wanted ones appear in the console, as published.
async fn shows_wanted_events(browser: &Browser, account: &Account, request_id: &str) -> Vec<Value> {
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
    // Events keep their order, so unwanted ones would appear before the last wanted one.
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

/// A copy of a page with these replacements; panics if a placeholder is missing.
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
async fn the_example_takes_its_values_from_the_url_fragment() {
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
    let seen = shows_wanted_events(&browser, &account, "example-1").await;

    // The page shows the same frames as the console.
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
async fn the_example_works_with_its_placeholders_replaced() {
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
    shows_wanted_events(&browser, &account, "example-1").await;
    browser.close().await;
    dir.remove().unwrap();
}

#[tokio::test]
async fn the_example_reports_missing_values_and_failed_connections() {
    let browser = Browser::open().await;
    browser.goto_file(&our_example(), None).await;
    let state = browser.text("document.getElementById('state').textContent").await;
    assert_eq!(state, "Replace the constants in this file first, or give them in the address.");

    // No server: the page shows how the connection ended.
    browser.record_console().await;
    let nobody = blackhole_dev::ports::free().unwrap();
    browser.goto("about:blank").await;
    browser.goto_file(&our_example(), Some(&format!("url=ws://127.0.0.1:{nobody}"))).await;
    browser
        .until("document.getElementById('state').textContent.startsWith('Connection closed: code 1006')")
        .await;
    // This shows that `complaints`, which other tests assert to be empty, contains such errors.
    let complaints = browser.complaints().await;
    let expected = format!("WebSocket connection to 'ws://127.0.0.1:{nobody}/");
    assert!(complaints.iter().any(|complaint| complaint.contains(&expected)), "{complaints:?}");

    // A refused token: the reason appears in the console.
    let url = Stack::shared().edge.url("");
    browser.goto("about:blank").await;
    browser.goto_file(&our_example(), Some(&format!("url={url}&account=a&token=nonsense"))).await;
    for reply in browser.logged_frames("reply", BINDINGS.len()).await {
        let error = reply["data"]["errors"][0].as_str().unwrap();
        assert!(error.starts_with("failed to authenticate token "), "{error}");
    }
    browser.close().await;
}

/// The example client of KAZOO's documentation, which this repository does not contain.
fn the_pages_example() -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/seed/blackhole.txt");
    let page = std::fs::read_to_string(&file).ok()?;
    let (_, example) = page.split_once("Example Client#").unwrap();
    let begin = example.find("<html>").unwrap();
    let end = example.find("</html>").unwrap();
    Some(example[begin..end].to_owned() + "</html>")
}

#[tokio::test]
async fn the_example_of_the_kazoo_documentation_works_unchanged() {
    let Some(page) = the_pages_example() else {
        println!("skipped: ../shared/seed/blackhole.txt is missing");
        return;
    };
    let account = Account::fresh();
    let dir = RunDir::create("seed").unwrap();
    // The documentation says to replace the default port 5555 as well.
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
    shows_wanted_events(&browser, &account, "any random number").await;
    browser.close().await;
    dir.remove().unwrap();
}
