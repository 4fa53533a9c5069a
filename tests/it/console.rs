//! The console that an edge serves, in a real Chromium, operated by keyboard.

use blackhole_dev::workspace;
use blackhole_tests::{
    accounts::Account,
    browser::Browser,
    client::Client,
    events::{self, Event},
    eventually,
    stack::Stack,
};
use fantoccini::key::Key;
use serde_json::{Value, json};

/// The console of the shared edge, in its own browser.
struct Console {
    browser: Browser,
    account: Account,
    token: String,
}

impl Console {
    /// Opens it without a token.
    async fn open() -> Console {
        let account = Account::fresh();
        let console = Console { browser: Browser::open().await, token: account.token(), account };
        console.browser.goto(&page()).await;
        let version = format!(
            "document.getElementById('version').textContent === 'edge {}'",
            env!("CARGO_PKG_VERSION")
        );
        console.until(&version).await;
        console
    }

    /// Opens it with a token and bindings in the URL, and waits until they are subscribed.
    async fn watching(bindings: &[&str]) -> Console {
        let account = Account::fresh();
        let console = Console { browser: Browser::open().await, token: account.token(), account };
        let mut fragment = url::form_urlencoded::Serializer::new(String::new());
        fragment.append_pair("token", &console.token);
        fragment.extend_pairs(bindings.iter().map(|binding| ("binding", binding)));
        console.browser.goto(&format!("{}#{}", page(), fragment.finish())).await;
        for binding in bindings {
            console.until_subscribed(binding).await;
        }
        console
    }

    async fn until(&self, expression: &str) {
        self.browser.until(expression).await;
    }

    async fn until_subscribed(&self, binding: &str) {
        self.until(&format!("{} !== null", subscription(binding))).await;
    }

    /// The cells of a column of the events, newest first.
    async fn column(&self, name: &str) -> Vec<String> {
        serde_json::from_value(self.browser.script(&format!("return {}", cells(name))).await).unwrap()
    }

    /// Waits until exactly the events with these ids are shown, newest first.
    async fn until_shown(&self, ids: &[&str]) {
        self.until(&format!("JSON.stringify({}) === {}", cells("id"), json!(json!(ids).to_string()))).await;
    }

    /// Waits until the text of an element contains `text`.
    async fn until_says(&self, id: &str, text: &str) {
        self.until(&format!("{}.includes({})", text_of(id), json!(text))).await;
    }

    async fn publish(&self, event: &Event) {
        event.publish(&Stack::shared().publisher().await).await;
    }

    /// Publishes a call event of the console's account.
    async fn call(&self, name: &str, call_id: &str) -> Event {
        let event = events::call(&self.account, name, call_id);
        self.publish(&event).await;
        event
    }
}

fn page() -> String {
    format!("http://127.0.0.1:{}/", Stack::shared().edge.port)
}

fn text_of(id: &str) -> String {
    format!("document.getElementById('{id}').textContent")
}

fn cells(name: &str) -> String {
    format!("[...document.querySelectorAll('.row .{name}')].map((cell) => cell.textContent)")
}

fn subscription(binding: &str) -> String {
    let selector = format!(".subscription[data-binding={}][data-state=active]", json!(binding));
    format!("document.querySelector({})", json!(selector))
}

#[tokio::test]
async fn a_token_in_the_url_fragment_is_enough_to_subscribe() {
    let console = Console::watching(&["call.*.*", "object.*.user"]).await;
    console.until_says("status", "connected").await;
    console.call("CHANNEL_CREATE", "1f3c9a.77e2@10.0.4.17").await;
    console.until_shown(&["1f3c9a.77e2@10.0.4.17"]).await;
    console.publish(&events::document(&console.account, "doc_edited", "user", "jane")).await;
    console.until_shown(&["jane", "1f3c9a.77e2@10.0.4.17"]).await;
    assert_eq!(console.column("name").await, ["doc_edited", "CHANNEL_CREATE"]);
    assert_eq!(console.column("binding").await, ["object.*.user", "call.*.*"]);
    assert_eq!(console.column("account").await, [&*console.account.id; 2]);
    console.browser.close().await;
}

/// The rows of the page of live calls: Call-ID and state.
const LIVE_CALLS: &str = "JSON.stringify([...document.querySelectorAll('.call')].map((row) => [row.dataset.call, row.dataset.state]))";

#[tokio::test]
async fn the_page_of_live_calls_begins_with_what_lives_and_follows() {
    let account = Account::fresh();
    let console = Console { browser: Browser::open().await, token: account.token(), account };
    console.call("CHANNEL_CREATE", "one").await;
    console.call("CHANNEL_CREATE", "two").await;
    console.call("CHANNEL_ANSWER", "two").await;
    let parked = events::call(&console.account, "PARK_PARKED", "three");
    console.publish(&parked).await;
    // The ingest may have begun a moment ago.
    eventually("a state", || async {
        let mut client = Client::connect(&Stack::shared().edge.url("view=args")).await;
        let data = json!({ "bindings": ["call.*.*"], "state": true });
        let request = json!({ "action": "subscribe", "auth_token": console.token, "data": data });
        client.request(request).await["data"]["state"] == true
    })
    .await;
    console.browser.goto(&format!("{}calls#token={}", page(), console.token)).await;
    let until = async |rows: Value| {
        console.until(&format!("{LIVE_CALLS} === {}", json!(rows.to_string()))).await;
    };
    until(json!([["one", "ringing"], ["two", "talking"], ["three", "parked"]])).await;
    assert_eq!(console.browser.page.current_url().await.unwrap().as_str(), format!("{}calls", page()));
    console.call("CHANNEL_HOLD", "two").await;
    console.call("CHANNEL_DESTROY", "one").await;
    until(json!([["two", "held"], ["three", "parked"]])).await;
    console.until_says("count-held", "1").await;
    console.browser.script("document.querySelector('.states [data-state=parked]').click()").await;
    until(json!([["three", "parked"]])).await;
    console.browser.script("document.querySelector('.states [data-state=\"\"]').click()").await;
    console.browser.script("filter.value = 'TWO'; filter.dispatchEvent(new Event('input'))").await;
    until(json!([["two", "held"]])).await;
    console.browser.close().await;
}

#[tokio::test]
async fn the_token_is_removed_from_the_url_and_stored_nowhere() {
    let console = Console::watching(&["call.*.*"]).await;
    let browser = &console.browser;
    assert_eq!(browser.page.current_url().await.unwrap().as_str(), page());
    let places =
        "JSON.stringify([localStorage.length, sessionStorage.length, document.cookie, history.state])";
    assert_eq!(browser.text(places).await, r#"[0,0,"",null]"#);
    assert!(!browser.text("document.documentElement.outerHTML").await.contains(&console.token));
    assert_eq!(browser.text("document.getElementById('token').type").await, "password");
    browser.page.refresh().await.unwrap();
    console.until_says("status", "disconnected").await;
    assert_eq!(browser.text("document.getElementById('token').value").await, "");
    console.browser.close().await;
}

#[tokio::test]
async fn the_console_loads_nothing_from_other_servers() {
    let console = Console::watching(&["call.*.*"]).await;
    console.call("CHANNEL_CREATE", "a-call").await;
    console.until_shown(&["a-call"]).await;
    let (page, socket) = (page(), page().replacen("http", "ws", 1));
    let mut requests = console.browser.requests().await;
    // Ignore the requests of the browser's first tab.
    requests.retain(|url| !["data:", "chrome:", "chrome-untrusted:"].iter().any(|own| url.starts_with(own)));
    requests.sort();
    let modules = std::fs::read_dir(workspace::root().unwrap().join("ws-edge/web/console")).unwrap();
    let modules = modules.map(|file| format!("console/{}", file.unwrap().file_name().display()));
    let files = ["", "bindings", "client.js", "console.css", "console.js", "version"].map(str::to_owned);
    let mut parts: Vec<String> =
        files.into_iter().chain(modules).map(|part| format!("{page}{part}")).collect();
    parts.sort();
    assert_eq!(requests.len(), parts.len() + 1, "{requests:?}");
    assert_eq!(requests[..parts.len()], parts);
    assert!(requests[parts.len()].starts_with(&socket), "{requests:?}");
    assert_eq!(
        console.browser.complaints().await,
        [""; 0],
        "the content security policy allows everything the page does"
    );
    console.browser.close().await;
}

#[tokio::test]
async fn the_console_cannot_run_inline_script_or_connect_elsewhere() {
    let console = Console::watching(&["call.*.*"]).await;
    let browser = &console.browser;
    let elsewhere = Stack::shared().another_edge("edge-console-elsewhere", &[]).await;
    browser
        .script(
            "window.violated = []; \
             addEventListener('securitypolicyviolation', (one) => violated.push(one.effectiveDirective)); \
             const add = (tag, text) => { const node = document.createElement(tag); node.textContent = text; \
               document.head.append(node); }; \
             add('script', 'window.hacked = 1'); add('style', 'body { display: none }'); \
             const button = document.createElement('button'); button.setAttribute('onclick', 'window.hacked = 1'); \
             document.body.append(button); button.click(); button.remove()",
        )
        .await;
    browser
        .script(&format!(
            "try {{ new WebSocket('{}') }} catch {{ }} fetch('http://127.0.0.1:{}/bindings').catch(() => {{ }})",
            elsewhere.url(""),
            elsewhere.port
        ))
        .await;
    let violated = "JSON.stringify([...violated].sort())";
    let expected =
        json!(["connect-src", "connect-src", "script-src-attr", "script-src-elem", "style-src-elem"])
            .to_string();
    browser.until(&format!("{violated} === {}", json!(expected))).await;
    assert_eq!(browser.script("return window.hacked === undefined").await, json!(true));
    // The page goes on.
    console.call("CHANNEL_CREATE", "a-call").await;
    console.until_shown(&["a-call"]).await;
    console.browser.close().await;
}

#[tokio::test]
async fn the_view_can_be_chosen() {
    let console = Console::watching(&["call.*.*"]).await;
    let browser = &console.browser;
    browser
        .script("document.getElementById('view').value = 'data'; document.getElementById('connect').click()")
        .await;
    console.until_says("status-detail", "?view=data").await;
    console.until_says("status", "connected").await;
    console.until_subscribed("call.*.*").await;
    console.call("CHANNEL_CREATE", "a-call").await;
    console.until_shown(&["a-call"]).await;
    browser.tab_to(".row").await;
    browser.press(Key::Enter).await;
    let views = "[...document.querySelectorAll('.views [data-view]')].map((one) => one.dataset.view).join()";
    assert_eq!(browser.text(views).await, "data,frame");
    console.browser.close().await;
}

#[tokio::test]
async fn the_keyboard_is_enough_to_connect_and_subscribe() {
    let console = Console::open().await;
    let browser = &console.browser;
    console.until_says("empty", "Paste a token and connect").await;

    browser.tab_to("#token").await;
    browser.press(Key::Enter).await;
    console.until_says("token-problem", "Paste a token first.").await;
    browser.keys("nonsense\n").await;
    console.until_says("token-problem", "failed to authenticate token").await;
    // The focus is still on the token: replace it.
    for _ in "nonsense".chars() {
        browser.press(Key::Backspace).await;
    }
    browser.keys(&console.token).await;
    console.until_says("token-info", &console.account.id).await;
    browser.press(Key::Enter).await;
    console.until("document.getElementById('token').getAttribute('aria-invalid') === 'false'").await;
    console.until_says("replies", "ping: pong").await;
    console.until_says("empty", "Now choose what to watch").await;

    browser.tab_to("#binding").await;
    browser.keys("call.*.*\n").await;
    console.until_subscribed("call.*.*").await;
    console.until_says("replies", "subscribe call.*.*").await;
    console.until_says("empty", "Waiting for events").await;
    browser.keys("fax.status.*\n").await;
    console.until_subscribed("fax.status.*").await;

    console.call("CHANNEL_CREATE", "a-call").await;
    console.until_shown(&["a-call"]).await;
    console.publish(&events::fax(&console.account, "a-fax")).await;
    console.until_shown(&["a-fax", "a-call"]).await;
    console.until_says("total", "2").await;
    console.browser.close().await;
}

#[tokio::test]
async fn the_keyboard_is_enough_to_fill_in_a_binding_of_the_catalogue() {
    let console = Console::watching(&["fax.status.*"]).await;
    let browser = &console.browser;
    // The offered bindings are those of the edge's catalogue.
    let catalogue = blackhole_common::catalogue::Catalogue::load(None).unwrap();
    let forms = catalogue.families().iter().flat_map(|family| &family.event).flat_map(|event| &event.form);
    let mut forms: Vec<&str> = forms.map(|form| form.binding.as_str()).collect();
    // Two kinds of events have the same form.
    forms.dedup();
    let offered = "[...document.querySelectorAll('#common-bindings button')].map((one) => one.textContent)";
    console.until(&format!("JSON.stringify({offered}) === {}", json!(json!(forms).to_string()))).await;

    browser.tab_to("#common summary").await;
    browser.press(Key::Enter).await;
    let chosen = |text: &str| format!("document.activeElement.textContent === {}", json!(text));
    while browser
        .script(&format!("return {}", chosen("conference.event.{event}.{conference_id}.{call_id}")))
        .await
        != json!(true)
    {
        browser.press(Key::Tab).await;
    }
    browser.press(Key::Enter).await;
    // The input for the required parameter has the focus.
    assert_eq!(browser.text("document.activeElement.labels[0].textContent").await, "conference id");
    assert_eq!(
        browser.text("document.getElementById('binding').value").await,
        "conference.event.*.{conference_id}.*"
    );
    browser.press(Key::Enter).await;
    console.until_says("subscribe-problem", "Fill in the conference id first.").await;
    // A dot would start another word, so the console encodes it.
    browser.keys("room.7@x\n").await;
    console.until_subscribed("conference.event.*.room%2E7@x.*").await;
    console.until("document.getElementById('parameters').childElementCount === 0").await;

    let mut event = events::conference(&console.account, "add-member", "other", "c");
    console.publish(&event).await;
    event = events::conference(&console.account, "add-member", "room%2E7%40x", "a-call");
    console.publish(&event).await;
    console.until_shown(&["a-call"]).await;

    // Parameters with a list of values offer it. A form without required parameters starts with `*`.
    browser.keys("s").await;
    browser.keys("stream.*.*").await;
    console.until("document.querySelectorAll('#parameters input').length === 2").await;
    let values = "[...document.querySelectorAll('#values-0 option')].map((one) => one.value).join()";
    assert_eq!(browser.text(values).await, "*,start,stop");
    browser.press(Key::Enter).await;
    console.until_subscribed("stream.*.*").await;
    console.browser.close().await;
}

#[tokio::test]
async fn the_keyboard_is_enough_to_read_an_event() {
    let console = Console::watching(&["call.*.*"]).await;
    let browser = &console.browser;
    let first = console.call("CHANNEL_CREATE", "first").await;
    console.until_shown(&["first"]).await;
    console.call("CHANNEL_CREATE", "second").await;
    console.until_shown(&["second", "first"]).await;

    browser.tab_to(".row").await;
    browser.press(Key::Down).await;
    browser.press(Key::Enter).await;
    let shown = "document.activeElement.parentElement.querySelector('.detail pre').textContent";
    assert_eq!(serde_json::from_str::<Value>(&browser.text(shown).await).unwrap(), first.body);
    // Tab leads to the other views.
    browser.tab_to("[data-view=data]").await;
    browser.press(Key::Space).await;
    let shown = browser.text("document.querySelector('.detail pre').textContent").await;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap()["call_id"], "first");

    // While an event is open, the list does not change; Escape shows new events.
    console.call("CHANNEL_DESTROY", "second").await;
    console.until_says("held", "Held while you read: 1 new.").await;
    assert_eq!(console.column("id").await, ["second", "first"]);
    browser.press(Key::Escape).await;
    console.until_shown(&["second", "second", "first"]).await;
    assert_eq!(browser.script("return document.querySelector('.detail')").await, Value::Null);
    console.browser.close().await;
}

#[tokio::test]
async fn single_keys_filter_pause_and_clear_the_events() {
    let console = Console::watching(&["call.*.*"]).await;
    let browser = &console.browser;
    console.call("CHANNEL_CREATE", "one").await;
    console.call("CHANNEL_ANSWER", "two").await;
    console.until_shown(&["two", "one"]).await;

    browser.keys("/channel_answer").await;
    console.until_shown(&["two"]).await;
    console.until_says("shown", "1 of 2 events match.").await;
    browser.press(Key::Escape).await;
    console.until_shown(&["two", "one"]).await;

    browser.keys("p").await;
    console.until_says("held", "Paused: 0 new.").await;
    console.call("CHANNEL_DESTROY", "three").await;
    console.until_says("held", "Paused: 1 new.").await;
    assert_eq!(console.column("id").await, ["two", "one"]);
    browser.keys("p").await;
    console.until_shown(&["three", "two", "one"]).await;

    browser.keys("c").await;
    console.until_shown(&[]).await;
    console.until_says("total", "0").await;
    console.call("CHANNEL_CREATE", "four").await;
    console.until_shown(&["four"]).await;
    console.browser.close().await;
}

#[tokio::test]
async fn a_refused_binding_shows_its_reason_and_another_can_be_unsubscribed() {
    let console = Console::watching(&["call.*.*", "fax.status.*"]).await;
    let browser = &console.browser;
    browser.keys("scall.NO_SUCH_EVENT.*\n").await;
    console.until_says("subscribe-problem", "event NO_SUCH_EVENT not supported").await;
    console.until_says("replies", "subscribe call.NO_SUCH_EVENT.*: event NO_SUCH_EVENT not supported").await;
    assert_eq!(
        browser.text("document.activeElement.id").await,
        "binding",
        "the focus is where the binding can be corrected"
    );
    assert_eq!(browser.text("document.activeElement.getAttribute('aria-invalid')").await, "true");

    browser.tab_to("[data-binding='call.*.*'] button").await;
    browser.press(Key::Enter).await;
    console.until(&format!("{} === null", subscription("call.*.*"))).await;
    // The call event would appear before the fax event.
    console.call("CHANNEL_CREATE", "a-call").await;
    console.publish(&events::fax(&console.account, "a-fax")).await;
    console.until_shown(&["a-fax"]).await;
    console.browser.close().await;
}

#[tokio::test]
async fn markup_in_events_is_shown_as_text() {
    let console = Console::watching(&["call.*.*"]).await;
    let browser = &console.browser;
    let hostile = "\"><img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>";
    let mut event = events::call(&console.account, "CHANNEL_CREATE", hostile);
    event.body["Caller-ID-Name"] = json!(hostile);
    event.body[hostile] = json!({ hostile: hostile });
    console.publish(&event).await;
    console.until_shown(&[hostile]).await;
    assert_eq!(console.column("summary").await, [hostile]);

    browser.tab_to(".row").await;
    browser.press(Key::Enter).await;
    let shown = browser.text("document.querySelector('.detail pre').textContent").await;
    assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), event.body);
    // The error reply contains the binding word for word.
    browser.tab_to("#pause").await;
    browser.keys(&format!("scall.{hostile}\n")).await;
    console.until_says("subscribe-problem", "<img src=x").await;

    assert_eq!(
        browser
            .script("return document.querySelector('main img, .side img, main script, .side script')")
            .await,
        Value::Null
    );
    assert_eq!(browser.script("return window.hacked === undefined").await, json!(true));
    assert_eq!(browser.complaints().await, [""; 0]);
    console.browser.close().await;
}

#[tokio::test]
async fn the_console_follows_the_preferred_colour_scheme() {
    let console = Console::watching(&["call.*.*", "object.*.user", "doc_created.*.user.*"]).await;
    let browser = &console.browser;
    for (name, id) in
        [("CHANNEL_CREATE", "1f3c9a.77e2@10.0.4.17"), ("CHANNEL_ANSWER", "1f3c9a.77e2@10.0.4.17")]
    {
        console.call(name, id).await;
    }
    console.publish(&events::document(&console.account, "doc_edited", "user", "jane")).await;
    console.until("document.querySelectorAll('.row').length === 3").await;
    browser.keys("scall.NO_SUCH_EVENT.*\n").await;
    console.until_says("subscribe-problem", "not supported").await;
    browser.script("document.getElementById('common').open = true").await;
    browser.script("document.querySelectorAll('#common-bindings button')[2].click()").await;
    browser.tab_to(".row").await;
    browser.press(Key::Down).await;
    browser.press(Key::Enter).await;
    browser.script("document.querySelector('#subscribe-form').scrollIntoView()").await;
    let lightness = "return Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)) / 255";
    for (scheme, is_light) in [("light", true), ("dark", false)] {
        browser.prefer_colours(scheme).await;
        let lightness = browser.script(lightness).await.as_f64().unwrap();
        assert_eq!(lightness > 0.5, is_light, "{scheme}: {lightness}");
        browser.screenshot(&format!("console-{scheme}")).await;
    }
    console.browser.close().await;
}

#[tokio::test]
async fn it_shows_the_releases_of_all_services() {
    let browser = Browser::open().await;
    browser.goto(&page()).await;
    for service in ["blackhole-ingest", "blackhole-auth", "blackhole-edge"] {
        let shown = format!("{service} {}", env!("CARGO_PKG_VERSION"));
        browser.until(&format!("document.getElementById('services').textContent.includes('{shown}')")).await;
    }
    browser.close().await;
}
