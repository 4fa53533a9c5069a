//! Programs that use the client, in a page, in Node and in Python, and report what happens.

use super::*;

pub(super) const WATCH: &str = include_str!("watch.js");
const WATCH_PY: &str = include_str!("watch.py");
/// With these Node 20 has a WebSocket of its own; later ones have it without.
pub(super) const OWN_WEBSOCKET: [&str; 2] = ["--experimental-websocket", "--no-warnings"];
/// The client's ping interval and timeout in milliseconds: short, to keep the tests fast.
const PING_INTERVAL_AND_TIMEOUT: (u64, u64) = (500, 2000);

/// A program that uses the client and reports what happens.
pub(super) struct Watcher {
    pub(super) runs_in: RunsIn,
    _dir: RunDir,
}

pub(super) enum RunsIn {
    Page(Browser),
    Program(Process, PathBuf),
}

/// A client outside of browsers.
#[derive(Clone, Copy)]
pub(super) enum Language {
    /// In Node, with the package's WebSocket.
    JavaScript,
    Python,
}

pub(super) fn node() -> PathBuf {
    install::find(install::NODE).unwrap()
}

/// The folder of the npm package.
pub(super) fn package() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ws-edge/clients/js").canonicalize().unwrap()
}

/// The configuration of a watcher: URL, token (a text, or the result of a function), and bindings by account.
pub(super) fn config(url: &str, token: Value, subscriptions: &[(&Account, &[&str])]) -> Value {
    let subscriptions: Vec<Value> =
        subscriptions.iter().map(|(account, bindings)| json!([account.id, bindings])).collect();
    let mut config = json!({ "url": url, "subscriptions": subscriptions });
    config["options"] =
        json!({ "pingInterval": PING_INTERVAL_AND_TIMEOUT.0, "timeout": PING_INTERVAL_AND_TIMEOUT.1 });
    let key = if token.is_string() { "token" } else { "tokens" };
    config[key] = if token.is_string() { token } else { token["given"].clone() };
    config
}

/// A token that the client gets from a function.
pub(super) fn given(account: &Account) -> Value {
    json!({ "given": account.token() })
}

impl Watcher {
    /// Runs the client in a page that loads it from this edge.
    pub(super) async fn in_page(edge: &Edge, config: &Value) -> Watcher {
        let dir = RunDir::create("client").unwrap();
        let file = dir.path().join("watch.html");
        let (port, config) = (edge.port, config.to_string());
        let page = format!(
            "<!doctype html><title>watch</title>\n\
             <script>const seen = [], config = {config};\nfunction report(what) {{ seen.push(what); }}</script>\n\
             <script type=\"module\">import {{ BlackholeClient }} from 'http://127.0.0.1:{port}/client.mjs';\n{WATCH}\n\
             Object.assign(window, {{ client, subscribe }});</script>"
        );
        std::fs::write(&file, page).unwrap();
        let browser = Browser::open().await;
        browser.goto_file(&file, None).await;
        Watcher { runs_in: RunsIn::Page(browser), _dir: dir }
    }

    /// Runs the client in Node or in Python.
    pub(super) fn start(language: Language, config: &Value) -> Watcher {
        match language {
            Language::JavaScript => Self::script_in_node(config, WATCH, &[]),
            Language::Python => Self::script_in_python(config, WATCH_PY),
        }
    }

    /// Runs a script that uses the client in Node. It may use `BlackholeClient`, `config` and `report`.
    pub(super) fn script_in_node(config: &Value, script: &str, flags: &[&str]) -> Watcher {
        let begin = format!(
            "import {{ BlackholeClient }} from {};\nconst config = {config};\n\
             const report = (what) => process.stdout.write(JSON.stringify(what) + '\\n');\n",
            json!(package().join("node.js"))
        );
        Self::program("watch.mjs", &(begin + script), |file| Spec::new(node()).args(flags).arg(file))
    }

    /// Runs a script that uses the client in Python. It may use `config` and `report`.
    pub(super) fn script_in_python(config: &Value, script: &str) -> Watcher {
        let begin = format!(
            "import json\nconfig = json.loads({})\n\
             def report(what): print(json.dumps(what), flush=True)\n",
            json!(config.to_string())
        );
        Self::program("watch.py", &(begin + script), |file| {
            let python = tools::python();
            let spec = Spec::new(python.get_program()).arg(file);
            python.get_envs().fold(spec, |spec, (name, value)| spec.env(name, value.unwrap()))
        })
    }

    fn program(name: &str, script: &str, command: impl FnOnce(&Path) -> Spec) -> Watcher {
        let dir = RunDir::create("client").unwrap();
        let (file, out) = (dir.path().join(name), dir.path().join("out"));
        std::fs::write(&file, script).unwrap();
        let process = Process::start(&command(&file).stdout(&out)).unwrap();
        Watcher { runs_in: RunsIn::Program(process, out), _dir: dir }
    }

    /// All reports so far.
    pub(super) async fn seen(&self) -> Vec<Value> {
        match &self.runs_in {
            RunsIn::Page(browser) => serde_json::from_value(browser.script("return seen").await).unwrap(),
            RunsIn::Program(_, out) => {
                let text = std::fs::read_to_string(out).unwrap_or_default();
                text.split_inclusive('\n')
                    .filter(|line| line.ends_with('\n'))
                    .map(|line| serde_json::from_str(line).unwrap())
                    .collect()
            }
        }
    }

    /// Waits until `count` reports match, and returns the matching ones.
    pub(super) async fn until(&self, what: &str, count: usize, is: impl Fn(&Value) -> bool) -> Vec<Value> {
        let found = async || self.seen().await.into_iter().filter(|one| is(one)).collect::<Vec<_>>();
        eventually(what, async || found().await.len() >= count).await;
        found().await
    }

    pub(super) async fn until_subscribed(&self, count: usize) {
        self.until("the subscriptions", count, |one| !one["subscribed"].is_null()).await;
    }

    /// Waits until it has connected `count` times.
    pub(super) async fn until_open(&self, count: usize) {
        self.until("the connection", count, |one| one["state"] == "open").await;
    }

    /// The numbers of the events for a binding of an account, in order of arrival.
    pub(super) async fn numbers(&self, account: &Account, binding: &str) -> Vec<u64> {
        let seen = self.seen().await;
        let mine = seen.iter().filter(|one| one["account"] == account.id && one["binding"] == binding);
        mine.map(|one| one["number"].as_u64().unwrap()).collect()
    }

    pub(super) async fn until_number(&self, account: &Account, number: u64) {
        self.until(&format!("event {number}"), 1, |one| {
            one["account"] == account.id && one["number"] == number
        })
        .await;
    }

    pub(super) async fn run(&self, script: &str) {
        match &self.runs_in {
            RunsIn::Page(browser) => drop(browser.script(script).await),
            RunsIn::Program(..) => panic!("only a page can run further scripts"),
        }
    }

    pub(super) async fn close(self) {
        match self.runs_in {
            RunsIn::Page(browser) => browser.close().await,
            RunsIn::Program(process, _) => drop(process.kill().await),
        }
    }
}
