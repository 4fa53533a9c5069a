//! The binaries' flags, and configuration errors: exit code 1 and one line with the key, the value and the reason.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use blackhole_dev::workspace::RunDir;
use blackhole_tests::{accounts, stack};

/// The settings that auth-svc requires.
const AUTH: &str =
    "[auth]\naccounts_file = \"ACCOUNTS\"\n[auth.jwt]\nhs256_secret = \"a secret of sixteen bytes\"\n";

struct Files(RunDir);

impl Files {
    fn new() -> Files {
        let dir = RunDir::create("configuration").unwrap();
        std::fs::write(dir.path().join("accounts.toml"), accounts::file()).unwrap();
        Files(dir)
    }

    /// A file with this text, in which ACCOUNTS is replaced by the path of the accounts file.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.path().join(name);
        let accounts = self.0.path().join("accounts.toml");
        std::fs::write(&file, text.replace("ACCOUNTS", &accounts.display().to_string())).unwrap();
        file
    }
}

fn programs() -> [PathBuf; 3] {
    let binaries = stack::binaries();
    [binaries.amqp_ingest, binaries.auth_svc, binaries.ws_edge]
}

fn run(program: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).env("RUST_BACKTRACE", "1");
    command.envs(environment.iter().copied()).output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The error of a failed run: exactly one line.
fn error_of(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(text.lines().count(), 1, "one line: {text}");
    text.trim().to_owned()
}

#[test]
fn each_binary_prints_its_version_and_its_flags() {
    for program in programs() {
        let name = program.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(
            out(&run(&program, &["--version"], &[])),
            format!("{name} {} (commit unknown)\n", env!("CARGO_PKG_VERSION"))
        );
        let help = out(&run(&program, &["--help"], &[]));
        for flag in ["--config", "--check-config", "--print-config", "--version"] {
            assert!(help.contains(flag), "{name}: {help}");
        }
    }
}

#[test]
fn the_printed_configuration_is_valid_and_without_secrets() {
    let files = Files::new();
    let text = format!(
        "{AUTH}[nats]\nurl = \"nats://me:s3cr3t@127.0.0.1:1\"\n[amqp]\nurl = \"amqp://me:s3cr3t@127.0.0.1:1\"\n"
    );
    let file = files.file("all.toml", &text);
    for program in programs() {
        let file = file.to_str().unwrap();
        assert_eq!(
            out(&run(&program, &["--config", file, "--check-config"], &[])),
            "the configuration is good\n"
        );
        let printed = out(&run(&program, &["--print-config"], &[("BLACKHOLE_CONFIG", file)]));
        assert!(printed.contains("[nats]") && printed.contains("[hidden]"), "{printed}");
        assert!(!printed.contains("s3cr3t") && !printed.contains("sixteen"), "{printed}");
        // The environment overrides the file.
        let printed =
            out(&run(&program, &["--print-config", "--config", file], &[("BLACKHOLE_LOG__FILTER", "debug")]));
        assert!(printed.contains("filter = \"debug\""), "{printed}");
        let again = files.file(
            "again.toml",
            &printed.replace("[hidden]@", "").replace("[hidden]", "sixteen bytes or more"),
        );
        out(&run(&program, &["--check-config", "--config", again.to_str().unwrap()], &[]));
    }
}

#[test]
fn each_configuration_error_is_reported_in_one_line() {
    let files = Files::new();
    let [ingest, auth, edge] = programs();
    for (program, text, expected) in [
        (&edge, "[ws]\nlisten = \"here\"", "`ws.listen` = \"here\""),
        (&edge, "[ws.rate]\nburst = 0", "`ws.rate.burst` = 0"),
        (&edge, "[ws]\nview = \"all\"", "expected one of args, data, both"),
        (&edge, "[ws]\nmax_frame = \"1 TiB\"", "must lie between 1 KiB and 1 GiB"),
        (&edge, "[ws]\nidle_timeout = \"soon\"", "`ws.idle_timeout` = \"soon\""),
        (&edge, "[ws]\ntrusted_proxies = [\"nowhere\"]", "`ws.trusted_proxies"),
        (&edge, "[nats]\nprefix = \"a b\"", "`nats.prefix` = \"a b\""),
        (&edge, "[nats]\nurl = \"nats://me:s3cr3t@:x\"", "`nats.url` = \"nats://[hidden]@:x\""),
        (&edge, "[nats]\nclient_cert = \"c.pem\"", "`nats.client_cert` = \"c.pem\""),
        (&edge, "[nats]\nnkey = \"a.nk\"\ncredentials = \"a.creds\"", "nats.credentials is set too"),
        (&edge, "[log]\nfilter = \"a=b=c\"", "`log.filter` = \"a=b=c\""),
        (&edge, "[log]\nformat = \"xml\"", "expected one of text, json"),
        (&edge, "[admin]\nlisten = 7", "`admin.listen` = 7"),
        (&edge, "[admin]\ntoken = \"s3cr3t\"", "`admin.token` = [hidden]"),
        (&edge, "[admin]\ntoken = \"s3cr3t of the operator\"", "without spaces"),
        (&auth, "[admin]\ntoken = 5", "`admin.token` = [hidden]"),
        (&ingest, "[admin]\ntoken_file = \"/nonexistent\"", "`admin.token_file` = \"/nonexistent\""),
        (
            &ingest,
            "[admin]\ntoken_file = \"/nonexistent\"\ntoken = \"s3cr3t-of-the-operator\"",
            "admin.token is set too",
        ),
        (&edge, "ws = 5", "`ws` = 5"),
        (&edge, "= broken", "TOML"),
        (&ingest, "[amqp]\nurl = \"http://me:s3cr3t@x\"", "`amqp.url` = \"http://[hidden]@x\""),
        (
            &ingest,
            "[amqp]\nbrokers = [{zone = \"a b\", url = \"amqp://me:s3cr3t@x\"}]",
            "zone \"a b\" must have",
        ),
        (&ingest, "[amqp]\nbrokers = [{zone = \"a\", url = \"http://me:s3cr3t@x\"}]", "the url of zone a: "),
        (&ingest, "[amqp]\nbrokers = \"amqp://me:s3cr3t@x\"", "`amqp.brokers` = [hidden]"),
        (
            &ingest,
            "[amqp]\nurl = \"amqp://me:s3cr3t@x\"\nbrokers = [{zone = \"a\", url = \"amqp://me:s3cr3t@y\"}]",
            "amqp.url is set too",
        ),
        (&ingest, "[amqp]\nprefetch = 0", "`amqp.prefetch` = 0"),
        (&ingest, "[amqp]\nprefetch = -1", "`amqp.prefetch` = -1"),
        (&ingest, "[history]\nstorage = \"tape\"", "expected one of file, memory"),
        (&ingest, "[history]\nreplicas = 9", "`history.replicas` = 9"),
        (&auth, "[auth.jwt]\nhs256_secret = \"a secret of sixteen bytes\"", "auth.accounts_file"),
        (&auth, "[auth]\naccounts_file = \"ACCOUNTS\"", "auth.jwt"),
        (
            &auth,
            "[auth]\naccounts_file = \"ACCOUNTS\"\n[auth.jwt]\nhs256_secret = \"s3cr3t\"",
            "`auth.jwt.hs256_secret` = [hidden]",
        ),
        (
            &auth,
            "[auth]\naccounts_file = \"ACCOUNTS\"\n[auth.jwt]\nhs256_secret = 5",
            "`auth.jwt.hs256_secret` = [hidden]",
        ),
    ] {
        let file = files.file("wrong.toml", text);
        let output = run(program, &["--config", file.to_str().unwrap(), "--check-config"], &[]);
        let line = error_of(&output);
        assert!(line.contains(expected), "{text}\n gave: {line}\n not: {expected}");
        assert!(!line.contains("s3cr3t"), "{line}");
        // Without the flag, the service fails to start with the same error.
        assert_eq!(error_of(&run(program, &["--config", file.to_str().unwrap()], &[])), line);
    }
}

/// The log of a service that runs, until there is a line with each of `expected`.
fn assert_logs(program: &Path, environment: &[(&str, &str)], expected: &[&str]) {
    let mut command = Command::new(program);
    command.envs(environment.iter().copied()).stderr(Stdio::piped());
    let mut service = command.env("BLACKHOLE_ADMIN__LISTEN", "127.0.0.1:0").spawn().unwrap();
    let mut missing = expected.to_vec();
    let mut log = Vec::new();
    for line in BufReader::new(service.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        assert!(!line.contains("s3cr3t"), "{line}");
        missing.retain(|expected| !line.contains(expected));
        log.push(line);
        if missing.is_empty() {
            break;
        }
    }
    service.kill().unwrap();
    service.wait().unwrap();
    assert!(missing.is_empty(), "{missing:?} in {log:#?}");
}

#[test]
fn an_unknown_key_of_the_file_is_logged_and_check_config_refuses_it() {
    let files = Files::new();
    let [ingest, auth, edge] = programs();
    let auth_text = AUTH.replace("[auth.jwt]", "secret_level = \"s3cr3t\"\n[auth.jwt]");
    for (program, text, refused, logged) in [
        (&edge, "[wss]\nlisten = \"x\"", "`wss` = a table", "key=\"wss\""),
        (&edge, "[ws]\n\nlisen = \"0.0.0.0:1\"", "`ws.lisen` = \"0.0.0.0:1\"", "line=3"),
        (
            &ingest,
            "[amqp]\nbrokers = [{zone = \"a\", url = \"amqp://h\", uri = \"s3cr3t\"}]",
            "zone, url",
            "brokers.0.uri",
        ),
        (&auth, auth_text.as_str(), "`auth.secret_level` = [hidden]", "auth.secret_level"),
    ] {
        let file = files.file("newer.toml", text);
        let file = file.to_str().unwrap();
        let line = error_of(&run(program, &["--config", file, "--check-config"], &[]));
        assert!(line.contains(refused) && !line.contains("s3cr3t"), "{line}");
        let printed = run(program, &["--config", file, "--print-config"], &[]);
        out(&printed);
        let told = String::from_utf8(printed.stderr).unwrap();
        assert!(told.contains(" is unknown and ignored; there are "), "{told}");
        let listen = ("BLACKHOLE_WS__LISTEN", "127.0.0.1:0");
        assert_logs(program, &[("BLACKHOLE_CONFIG", file), listen], &[logged]);
    }
}

/// As Kubernetes sets them for the Services `blackhole` and `blackhole-nats`.
const SERVICE_LINKS: [(&str, &str); 6] = [
    ("BLACKHOLE_PORT", "tcp://10.96.7.1:5555"),
    ("BLACKHOLE_PORT_5555_TCP_ADDR", "10.96.7.1"),
    ("BLACKHOLE_SERVICE_HOST", "10.96.7.1"),
    ("BLACKHOLE_SERVICE_PORT_WSS", "5555"),
    ("BLACKHOLE_NATS_PORT", "tcp://10.96.7.2:4222"),
    ("BLACKHOLE_NATS_SERVICE_HOST", "10.96.7.2"),
];

#[test]
fn variables_that_are_no_settings_are_ignored() {
    let files = Files::new();
    let file = files.file("all.toml", AUTH);
    for program in programs() {
        let mut environment = SERVICE_LINKS.to_vec();
        environment.push(("BLACKHOLE_CONFIG", file.to_str().unwrap()));
        let checked = run(&program, &["--check-config"], &environment);
        assert_eq!(out(&checked), "the configuration is good\n");
        assert_eq!(String::from_utf8(checked.stderr).unwrap(), "");
        environment.extend([("BLACKHOLE_LOG_FILTER", "s3cr3t"), ("BLACKHOLE_WS__LISTEN", "127.0.0.1:0")]);
        assert_logs(&program, &environment, &["did you mean BLACKHOLE_LOG__FILTER?"]);
    }
}

#[test]
fn an_invalid_environment_variable_is_named() {
    let [_, _, edge] = programs();
    let line = error_of(&run(&edge, &["--check-config"], &[("BLACKHOLE_WS__MAX_BINDINGS", "many")]));
    assert!(line.contains("BLACKHOLE_WS__MAX_BINDINGS") && line.contains("\"many\""), "{line}");
    let line = error_of(&run(&edge, &["--check-config"], &[("BLACKHOLE_WS__MAX_BINDINGS", "0")]));
    assert!(line.contains("`ws.max_bindings` = 0 "), "{line}");
    let line = error_of(&run(&edge, &["--check-config"], &[("BLACKHOLE_WSS__LISTEN", "x")]));
    assert!(line.contains("`wss`"), "{line}");
    let line = error_of(&run(&edge, &[], &[("BLACKHOLE_WS__LISEN", "x")]));
    assert!(
        line.contains("`ws.lisen` = \"x\" (in the environment (BLACKHOLE_WS__LISEN)): unknown key"),
        "{line}"
    );
    let line = error_of(&run(&edge, &["--check-config", "--config", "/nonexistent/file.toml"], &[]));
    assert!(line.contains("/nonexistent/file.toml: No such file"), "{line}");
}

#[test]
fn an_invalid_catalogue_stops_the_ingest_and_the_edge() {
    let files = Files::new();
    let catalogue = files.file(
        "families.toml",
        "[[family]]\nname = \"mine\"\n[[family.event]]\nexchange = \"e\"\nkey = \"{x}.y\"\ntenant = []\n",
    );
    let [ingest, _, edge] = programs();
    for program in [&ingest, &edge] {
        let environment = [
            ("BLACKHOLE_CATALOGUE__FILE", catalogue.to_str().unwrap()),
            ("BLACKHOLE_ADMIN__LISTEN", "127.0.0.1:0"),
        ];
        let line = error_of(&run(program, &["--check-config"], &environment));
        assert_eq!(error_of(&run(program, &[], &environment)), line);
        assert!(
            line.contains("family `mine`: event `{x}.y`: the first word `{x}` needs a list of values"),
            "{line}"
        );
    }
}

#[test]
fn a_port_in_use_is_reported() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let [_, _, edge] = programs();
    for variable in ["BLACKHOLE_WS__LISTEN", "BLACKHOLE_ADMIN__LISTEN"] {
        let other =
            if variable.contains("WS__") { "BLACKHOLE_ADMIN__LISTEN" } else { "BLACKHOLE_WS__LISTEN" };
        let line = error_of(&run(&edge, &[], &[(variable, address.as_str()), (other, "127.0.0.1:0")]));
        assert!(line.contains(&address) && line.contains("in use"), "{line}");
    }
}

/// What `deploy/prepare.sh` puts into `.env`.
fn prepared_secret(dir: &Path) -> String {
    let script = dir.join("prepare.sh");
    out(&Command::new("sh").arg(script).output().unwrap());
    let env = std::fs::read_to_string(dir.join(".env")).unwrap();
    env.lines().find_map(|line| line.strip_prefix("DEV_SECRET=")).unwrap().to_owned()
}

#[test]
fn the_compose_file_gets_a_secret_of_its_own_which_auth_svc_accepts() {
    let deploy = blackhole_dev::workspace::root().unwrap().join("deploy");
    let files = Files::new();
    let fresh = |name: &str| {
        let dir = files.0.subdir(name).unwrap();
        std::fs::create_dir(dir.join("haproxy")).unwrap();
        for file in ["prepare.sh", ".env.example"] {
            std::fs::copy(deploy.join(file), dir.join(file)).unwrap();
        }
        dir
    };
    let (one, two) = (fresh("one"), fresh("two"));
    let secret = prepared_secret(&one);
    assert_eq!(prepared_secret(&one), secret, "what is there stays");
    assert_ne!(prepared_secret(&two), secret);
    assert!(one.join("haproxy/cert_key.pem").exists());
    let env = std::fs::read_to_string(one.join(".env")).unwrap();
    for variable in ["NATS_INGEST_PASSWORD", "NATS_AUTH_PASSWORD", "NATS_EDGE_PASSWORD"] {
        let password = env.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='));
        let password = password.unwrap_or_else(|| panic!("no {variable} in {env}"));
        assert!(password.starts_with('p') && password.len() == 49, "{password}");
    }

    let [_, auth, _] = programs();
    let file = files.file("accounts-only.toml", "[auth]\naccounts_file = \"ACCOUNTS\"\n");
    let check = |secret: &str| {
        let arguments = ["--config", file.to_str().unwrap(), "--check-config"];
        run(&auth, &arguments, &[("BLACKHOLE_AUTH__JWT__HS256_SECRET", secret)])
    };
    out(&check(&secret));

    // The example of former versions, which may be in use.
    let known = "change-me-this-is-for-development";
    let line = error_of(&check(known));
    assert!(line.contains("is the former example") && !line.contains(known), "{line}");
    std::fs::write(one.join(".env"), format!("DEV_SECRET={known}\nAMQP_URL=amqp://mine\n")).unwrap();
    assert_ne!(prepared_secret(&one), known);
    let env = std::fs::read_to_string(one.join(".env")).unwrap();
    assert!(env.contains("\nAMQP_URL=amqp://mine\n") && env.contains("\nNATS_EDGE_PASSWORD=p"), "{env}");
}
