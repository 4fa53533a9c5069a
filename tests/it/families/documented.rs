//! The example of docs/catalogue.md: the file, the client's request, the AMQP message and the frame are read from the
//! page, so that the page stays correct.

use std::{path::Path, process::Command};

use blackhole_dev::{simulator::declare, workspace::RunDir};
use blackhole_tests::{
    accounts::Account,
    client::Client,
    events::{self, Event},
    stack::{self, Stack},
};
use serde_json::Value;

/// The parts of the example.
struct Example {
    catalogue: String,
    request: Value,
    exchange: String,
    key: String,
    body: Value,
    frame: Value,
    configuration: String,
    /// A complete error message, and the ends of further ones.
    mistake: String,
    mistakes: Vec<String>,
}

/// The first code block in this language that starts with `begins`.
fn block<'p>(page: &'p str, language: &str, begins: &str) -> &'p str {
    let fence = format!("```{language}\n");
    let mut blocks = page.split(&fence).skip(1).map(|rest| rest.split_once("\n```").unwrap().0);
    blocks.find(|block| block.starts_with(begins)).unwrap_or_else(|| panic!("no {language} block: {begins}"))
}

fn example() -> Example {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/catalogue.md");
    let page = std::fs::read_to_string(file).unwrap();
    let published = page.split_once("\nWhen `").unwrap().1;
    let mut quoted = published.split('`').step_by(2);
    let body = quoted.next().unwrap();
    let (exchange, key) = (quoted.next().unwrap(), quoted.next().unwrap());
    let mistakes = block(&page, "text", "catalogue catalogue.toml: No such file");
    let mistake = block(&page, "text", "ws-edge: configuration: `catalogue.file`");
    Example {
        catalogue: block(&page, "toml", "# catalogue.toml").to_owned(),
        request: serde_json::from_str(block(&page, "json", "{\"action\":\"subscribe\"")).unwrap(),
        exchange: exchange.to_owned(),
        key: key.to_owned(),
        body: serde_json::from_str(body).unwrap(),
        frame: serde_json::from_str(block(&page, "json", "{\"action\":\"event\"")).unwrap(),
        configuration: block(&page, "toml", "# blackhole.toml").to_owned(),
        mistake: mistake.to_owned(),
        mistakes: mistakes.lines().map(str::to_owned).collect(),
    }
}

#[tokio::test]
async fn the_documented_custom_family_works() {
    let mut example = example();
    let dir = RunDir::create("documented").unwrap();
    let file = dir.path().join("catalogue.toml");
    std::fs::write(&file, &example.catalogue).unwrap();
    // Its own broker, on which the ingest declares the exchange.
    let stack = Stack::start_with("documented-stack", &[("CATALOGUE__FILE", file.to_str().unwrap())]).await;

    // Replace the realm of the page, harbour.example.net, with that of a test account.
    let (mine, other) = (Account::fresh(), Account::fresh());
    let mut client = Client::connect(&stack.edge.url("view=args")).await;
    example.request["auth_token"] = mine.token().into();
    let reply = client.request(example.request.clone()).await;
    assert_eq!(reply["status"], "success", "{reply}");
    client.subscribe(&mine, &["fax.status.sentinel"]).await;

    let publisher = stack.publisher().await;
    let as_documented = |realm: &str| {
        let text = |value: &str| value.replace("harbour.example.net", realm);
        let exchange: &'static str = String::leak(example.exchange.clone());
        let key = example.key.replace("harbour%2Eexample%2Enet", &realm.replace('.', "%2E"));
        Event { exchange, key, body: serde_json::from_str(&text(&example.body.to_string())).unwrap() }
    };
    let (wanted, unwanted) = (as_documented(&mine.realm), as_documented(&other.realm));
    assert_ne!(wanted.key, example.key, "the page's realm is in the key");
    // The broker refuses this with 406 if the ingest has declared the exchange differently from KAZOO.
    declare(&publisher.channel().await.unwrap(), &example.exchange).await.unwrap();
    unwanted.publish(&publisher).await;
    wanted.publish(&publisher).await;
    events::call(&other, "CHANNEL_PROGRESS", "x").publish(&publisher).await;
    let progress = events::call(&mine, "CHANNEL_PROGRESS", "1f3c9a.77e2@10.0.4.17");
    progress.publish(&publisher).await;
    events::fax(&mine, "sentinel").publish(&publisher).await;

    let got = client.events_until("sentinel").await;
    let mut frame = example.frame.clone();
    frame["routing_key"] = wanted.key.as_str().into();
    frame["args"] = wanted.body;
    assert_eq!(got.len(), 2, "{got:?}");
    assert!(example.frame.as_object().unwrap().iter().all(|(name, _)| got[0].get(name).is_some()));
    for (name, value) in frame.as_object().unwrap() {
        assert_eq!(&got[0][name], value, "{name}");
    }
    assert_eq!((&got[1]["name"], &got[1]["args"]), (&"CHANNEL_PROGRESS".into(), &progress.body));

    // An edge without the file answers as documented.
    let edge = stack.another_edge("edge-without", &[]).await;
    let mut client = Client::connect(&edge.url("")).await;
    let reply = client.request(example.request.clone()).await;
    assert_eq!(reply["data"]["errors"][0], "no available subscriptions to requested binding");
    drop((dir, stack));
}

#[test]
fn catalogue_errors_have_the_documented_texts() {
    let example = example();
    let dir = RunDir::create("documented-mistakes").unwrap();
    std::fs::write(dir.path().join("blackhole.toml"), &example.configuration).unwrap();
    let (head, _) = example.mistake.split_once("catalogue: family").unwrap();
    assert!(example.mistakes.iter().any(|mistake| format!("{head}{mistake}") == example.mistake));
    let made = [
        ("", ""),
        ("exchange =", "exchagne ="),
        ("family = \"call\"", "family = \"cal\""),
        ("name = \"registration\"", "name = \"call\""),
        ("key = \"realm\", as", "key = \"rea1m\", as"),
        (
            "values.event = [\"success\", \"expired\"]",
            "values.event = [\"success\", \"expired\"]\n\
             state = { key = [{ key = \"realm\" }], ends = [{ key = \"event\", values = [\"expire\"] }] }",
        ),
        ("binding = \"registration.{event}.{user}\"", "binding = \"registration.{event}.{device}\""),
    ];
    assert_eq!(example.mistakes.len(), made.len());
    for (expected, (right, wrong)) in example.mistakes.iter().zip(made) {
        if !right.is_empty() {
            assert!(example.catalogue.contains(right), "{right}");
            let text = example.catalogue.replace(right, wrong);
            std::fs::write(dir.path().join("catalogue.toml"), text).unwrap();
        }
        let mut edge = Command::new(stack::binaries().ws_edge);
        edge.args(["--check-config", "--config", "blackhole.toml"]).current_dir(dir.path());
        let output = edge.output().unwrap();
        assert_eq!(String::from_utf8(output.stderr).unwrap().trim_end(), format!("{head}{expected}"));
    }
    dir.remove().unwrap();
}
