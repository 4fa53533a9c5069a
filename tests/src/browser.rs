//! A real Chromium, driven through its driver.

use std::{sync::LazyLock, time::Duration};

use blackhole_dev::{
    install, ports,
    process::Spec,
    server::{Ready, Server},
    workspace::RunDir,
};
use fantoccini::{
    ClientBuilder,
    wd::{Capabilities, WebDriverCompatibleCommand},
};
use serde_json::{Value, json};

use crate::{eventually, soon};

const DRIVER_READY_WITHIN: Duration = Duration::from_secs(30);

struct Driver {
    /// Ends with this process.
    _server: Server,
    authority: String,
    dir: RunDir,
}

/// A browser of its own, closed by [`Browser::close`].
pub struct Browser {
    /// Everything that WebDriver can do.
    pub page: fantoccini::Client,
}

impl Browser {
    /// Opens one. Certificates are not checked: tests make their own.
    pub async fn open() -> Browser {
        let driver = driver();
        let profile = driver.dir.subdir(&format!("profile-{:x}", rand::random::<u64>())).unwrap();
        let mut capabilities = Capabilities::new();
        capabilities.insert("acceptInsecureCerts".into(), json!(true));
        capabilities.insert(
            "goog:chromeOptions".into(),
            json!({
                "args": [
                    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
                    "--disable-background-networking", "--disable-component-update", "--disable-sync",
                    "--window-size=1280,900", format!("--user-data-dir={}", profile.display()),
                ],
            }),
        );
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder.capabilities(capabilities);
        let page = soon("a browser", builder.connect(&format!("http://{}", driver.authority))).await.unwrap();
        Browser { page }
    }

    /// Keeps every argument of the page's `console.log` in `window.logged`, from the next page on.
    pub async fn record_console(&self) {
        let source = "window.logged = []; const log = console.log; \
                      console.log = (...all) => { window.logged.push(...all); log(...all); };";
        let command = DevTools {
            command: "Page.addScriptToEvaluateOnNewDocument",
            parameters: json!({ "source": source }),
        };
        self.page.issue_cmd(command).await.unwrap();
    }

    /// What [`Browser::record_console`] has kept.
    pub async fn logged(&self) -> Vec<Value> {
        match self.script("return window.logged || []").await {
            Value::Array(logged) => logged,
            other => panic!("{other}"),
        }
    }

    /// The value that a script returns.
    pub async fn script(&self, script: &str) -> Value {
        self.page.execute(script, Vec::new()).await.unwrap()
    }

    /// Waits until a script returns true.
    pub async fn until(&self, what: &str, script: &str) {
        eventually(what, || async { self.script(script).await == json!(true) }).await;
    }

    /// Saves what the page looks like beside the logs, for who looks at a failure.
    pub async fn screenshot(&self, name: &str) {
        let png = self.page.screenshot().await.unwrap();
        std::fs::write(driver().dir.path().join(format!("{name}.png")), png).unwrap();
    }

    /// Closes it.
    pub async fn close(self) {
        self.page.close().await.unwrap();
    }
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
    let ready = Ready::Http(authority.clone(), "/status".into());
    let server = Server::start("chromedriver", spec, ready, DRIVER_READY_WITHIN).await.unwrap();
    Driver { _server: server, authority, dir }
}

/// A command of Chromium's own protocol, passed on by its driver.
#[derive(Debug)]
struct DevTools {
    command: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for DevTools {
    fn endpoint(&self, base_url: &url::Url, session_id: Option<&str>) -> Result<url::Url, url::ParseError> {
        base_url.join(&format!("session/{}/goog/cdp/execute", session_id.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        let body = json!({ "cmd": self.command, "params": self.parameters });
        (http::Method::POST, Some(body.to_string()))
    }
}
