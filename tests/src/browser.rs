//! A real Chromium, controlled through ChromeDriver.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use blackhole_dev::{
    install, ports,
    process::Spec,
    server::{Ready, Server},
    workspace::RunDir,
};
use fantoccini::{
    ClientBuilder,
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use serde_json::{Value, json};

use crate::{eventually, soon};

const DRIVER_READY_TIMEOUT: Duration = Duration::from_secs(30);
/// More than any of the pages has focusable elements.
const MAX_TABS: usize = 60;

struct Driver {
    /// It ends with this process.
    _server: Server,
    authority: String,
    /// A script that starts Chromium so that it ends with its driver.
    chromium: PathBuf,
    dir: RunDir,
}

/// A browser with its own profile, closed by [`Browser::close`]. It logs its network requests.
pub struct Browser {
    /// The WebDriver session.
    pub page: fantoccini::Client,
}

impl Browser {
    /// Opens a browser. It accepts any certificate, as tests create their own.
    pub async fn open() -> Browser {
        let driver = driver();
        let profile = driver.dir.subdir(&format!("profile-{:x}", rand::random::<u64>())).unwrap();
        let mut capabilities = Capabilities::new();
        capabilities.insert("acceptInsecureCerts".into(), json!(true));
        capabilities.insert(
            "goog:chromeOptions".into(),
            json!({
                "binary": driver.chromium,
                "args": [
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-dev-shm-usage",
                    "--disable-quic",
                    "--no-first-run",
                    "--disable-background-networking",
                    "--disable-component-update",
                    "--disable-sync",
                    "--window-size=1280,900",
                    format!("--user-data-dir={}", profile.display()),
                ],
            }),
        );
        capabilities.insert("goog:loggingPrefs".into(), json!({ "browser": "ALL", "performance": "ALL" }));
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder.capabilities(capabilities);
        let page = soon("a browser", builder.connect(&format!("http://{}", driver.authority))).await.unwrap();
        Browser { page }
    }

    /// Opens a page.
    pub async fn goto(&self, url: &str) {
        soon("the page", self.page.goto(url)).await.unwrap();
    }

    /// Opens a file, with a fragment (the part of a URL after `#`).
    pub async fn goto_file(&self, file: &Path, fragment: Option<&str>) {
        let mut url = url::Url::from_file_path(file).unwrap();
        url.set_fragment(fragment);
        self.goto(url.as_str()).await;
    }

    /// From the next page on, keeps every argument of `console.log` in `window.logged`.
    pub async fn record_console(&self) {
        let source = "window.logged = []; const log = console.log; \
                      console.log = (...all) => { window.logged.push(...all); log(...all); };";
        self.dev_tools("Page.addScriptToEvaluateOnNewDocument", json!({ "source": source })).await;
    }

    /// The values that [`Browser::record_console`] has kept.
    pub async fn logged(&self) -> Vec<Value> {
        match self.script("return window.logged || []").await {
            Value::Array(logged) => logged,
            other => panic!("{other}"),
        }
    }

    /// Waits until [`Browser::record_console`] has kept `count` frames with this action, and returns them.
    pub async fn logged_frames(&self, action: &str, count: usize) -> Vec<Value> {
        let is = move |frame: &Value| frame["action"] == action;
        let enough = async || self.logged().await.iter().filter(|frame| is(frame)).count() >= count;
        eventually(&format!("{action} number {count} in the console"), enough).await;
        self.logged().await.into_iter().filter(is).collect()
    }

    /// The value that a script returns.
    pub async fn script(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// The text that an expression evaluates to.
    pub async fn text(&self, expression: &str) -> String {
        match self.script(&format!("return {expression}")).await {
            Value::String(text) => text,
            other => panic!("{expression} is {other}"),
        }
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) {
        let script = format!("return ({expression}) === true");
        eventually(expression, async || self.script(&script).await == json!(true)).await;
    }

    /// Presses and releases one key.
    pub async fn press(&self, key: Key) {
        self.keys(&char::from(key).to_string()).await;
    }

    /// Types a text, key by key, into the focused element.
    pub async fn keys(&self, text: &str) {
        let keys = text.chars().fold(KeyActions::new("keyboard".into()), |keys, value| {
            keys.then(KeyAction::Down { value }).then(KeyAction::Up { value })
        });
        self.page.perform_actions(keys).await.unwrap();
    }

    /// Presses Tab until an element that matches the selector has the focus.
    pub async fn tab_to(&self, selector: &str) {
        let script = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..MAX_TABS {
            self.press(Key::Tab).await;
            if self.script(&script).await == json!(true) {
                return;
            }
        }
        panic!("Tab does not lead to {selector}");
    }

    /// The URLs that the browser has requested since the last call, including WebSockets.
    pub async fn requests(&self) -> Vec<String> {
        let log = self.log("performance").await;
        let events = log.iter().map(|entry| serde_json::from_str::<Value>(&message(entry)).unwrap());
        let url = |event: Value| {
            let (method, parameters) = (&event["message"]["method"], &event["message"]["params"]);
            let url = match method.as_str()? {
                "Network.requestWillBeSent" => &parameters["request"]["url"],
                "Network.webSocketCreated" => &parameters["url"],
                _ => return None,
            };
            url.as_str().map(str::to_owned)
        };
        events.filter_map(url).collect()
    }

    /// Errors and warnings of the browser since the last call: scripts, policies, failed requests.
    pub async fn complaints(&self) -> Vec<String> {
        let log = self.log("browser").await;
        log.iter().filter(|entry| entry["source"] != "console-api").map(message).collect()
    }

    /// Sets the preferred colour scheme: `light` or `dark`.
    pub async fn prefer_colours(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.dev_tools("Emulation.setEmulatedMedia", json!({ "features": [feature] })).await;
    }

    /// Saves a screenshot next to the driver's log, for debugging.
    pub async fn screenshot(&self, name: &str) {
        let png = self.page.screenshot().await.unwrap();
        std::fs::write(driver().dir.path().join(format!("{name}.png")), png).unwrap();
    }

    /// Closes it.
    pub async fn close(self) {
        self.page.close().await.unwrap();
    }

    /// Sends a command of the Chrome DevTools protocol.
    async fn dev_tools(&self, command: &str, parameters: Value) {
        self.vendor("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await;
    }

    /// The new entries of a log of the driver.
    async fn log(&self, kind: &str) -> Vec<Value> {
        match self.vendor("se/log", json!({ "type": kind })).await {
            Value::Array(entries) => entries,
            other => panic!("{other}"),
        }
    }

    async fn vendor(&self, path: &'static str, body: Value) -> Value {
        self.page.issue_cmd(VendorCommand { path, body }).await.unwrap()
    }
}

/// The message of a log entry.
fn message(entry: &Value) -> String {
    entry["message"].as_str().unwrap().to_owned()
}

fn driver() -> &'static Driver {
    static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
        let start = || tokio::runtime::Runtime::new().unwrap().block_on(start_driver());
        std::thread::scope(|scope| scope.spawn(start).join().unwrap())
    });
    &DRIVER
}

async fn start_driver() -> Driver {
    let dir = RunDir::create("browser").unwrap();
    let port = ports::free().unwrap();
    let authority = format!("127.0.0.1:{port}");
    let spec = Spec::new(install::find(install::CHROMEDRIVER).unwrap())
        .arg(format!("--port={port}"))
        .log(dir.path().join("chromedriver.log"));
    let ready = Ready::Port(authority.parse().unwrap());
    let server = Server::start("chromedriver", spec, ready, DRIVER_READY_TIMEOUT).await.unwrap();
    // A driver that is killed does not end its browsers.
    let chromium = dir.path().join("chromium");
    let real = install::find(install::CHROMIUM).unwrap();
    let script = format!("#!/bin/sh\nexec setpriv --pdeathsig KILL -- '{}' \"$@\"\n", real.display());
    std::fs::write(&chromium, script).unwrap();
    std::fs::set_permissions(&chromium, std::fs::Permissions::from_mode(0o755)).unwrap();
    Driver { _server: server, authority, chromium, dir }
}

/// A command that is specific to ChromeDriver.
#[derive(Debug)]
struct VendorCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for VendorCommand {
    fn endpoint(&self, base_url: &url::Url, session_id: Option<&str>) -> Result<url::Url, url::ParseError> {
        base_url.join(&format!("session/{}/{}", session_id.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
