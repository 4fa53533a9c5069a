//! Starting and stopping modules at the request of KAZOO.

use async_nats::jetstream;
use futures_util::TryStreamExt;
use serde_json::json;

use super::{
    Deployment,
    edge::{Behaviour, Edge},
};

/// The families that are stored as stopped; none if the bucket does not exist.
async fn stored(client: &async_nats::Client) -> Option<Vec<String>> {
    let store = jetstream::new(client.clone()).get_key_value("BLACKHOLE_V1_STOPPED_FAMILIES").await.ok()?;
    let mut keys: Vec<String> = store.keys().await.unwrap().try_collect().await.unwrap();
    keys.sort_unstable();
    Some(keys)
}

#[tokio::test]
async fn a_module_is_stopped_and_started_on_all_edges() {
    let deployment = Deployment::start("modules").await;
    let client = deployment.client().await;
    let edges = [
        Edge::start(&client, "edge-a", Behaviour::Complete, Vec::new()).await,
        Edge::start(&client, "edge-b", Behaviour::Complete, Vec::new()).await,
    ];
    let mut kazoo = deployment.kazoo("kazoo_apps@apps01-3").await;
    let mut switch = async |module: &str, action: &str, persist: Option<bool>| {
        let mut request = json!({ "Module": module, "Action": action });
        if let Some(persist) = persist {
            request["Persist"] = json!(persist);
        }
        let answer = kazoo.module(request).await;
        assert_eq!(
            (&answer["Event-Category"], &answer["Event-Name"], &answer["App-Name"]),
            (&json!("websockets"), &json!("module_resp"), &json!("blackhole"))
        );
        let error = answer.get("Error").map(|error| error.as_str().unwrap().to_owned());
        (answer["Started"].as_bool().unwrap(), answer["Persisted"].as_bool().unwrap(), error)
    };
    let was_switched = |family: &str, running: bool| {
        for edge in &edges {
            assert_eq!(edge.switched(), [(family.to_owned(), running)]);
        }
    };

    assert_eq!(switch("bh_call", "stop", Some(false)).await, (false, false, None));
    was_switched("call", false);
    assert_eq!(stored(&client).await, None, "nothing was stored");
    assert_eq!(switch("call", "start", Some(false)).await, (true, false, None));
    was_switched("call", true);

    assert_eq!(switch("bh_fax", "stop", Some(true)).await, (false, true, None));
    was_switched("fax", false);
    assert_eq!(
        switch("blackhole_presence", "stop", None).await,
        (false, true, None),
        "persistent by default"
    );
    was_switched("presence", false);
    assert_eq!(stored(&client).await.unwrap(), ["fax", "presence"]);
    assert_eq!(switch("fax", "start", Some(false)).await, (true, false, None));
    was_switched("fax", true);
    assert_eq!(stored(&client).await.unwrap(), ["fax", "presence"]);
    assert_eq!(switch("fax", "start", Some(true)).await, (true, true, None));
    was_switched("fax", true);
    assert_eq!(stored(&client).await.unwrap(), ["presence"]);

    let (started, persisted, error) = switch("bh_nonsense", "start", Some(true)).await;
    assert_eq!((started, persisted), (false, false));
    let error = error.unwrap();
    assert!(error.starts_with("module doesn't exist: there are call, "), "{error}");
    assert!(edges.iter().all(|edge| edge.switched().is_empty()), "no edge was asked");

    // One edge that fails and one that does not answer.
    let _incomplete = Edge::start(&client, "edge-c", Behaviour::Incomplete, Vec::new()).await;
    let _silent = Edge::start(&client, "edge-d", Behaviour::Silent, Vec::new()).await;
    deployment.until_missing("edge-c").await;
    deployment.until_missing("edge-d").await;
    let (started, persisted, error) = switch("call", "start", Some(true)).await;
    assert_eq!((started, persisted, error.as_deref()), (true, true, Some("edge-c: out of order")));
    let logged = deployment.logged("edges did not say that they switched a family");
    assert!(logged.last().unwrap().contains("edge-d"), "{logged:?}");
    assert_eq!(deployment.counted("module", "partial").await, 1);

    for malformed in [r#"{"Module":"call","Action":"restart"}"#, r#"{"Action":"stop"}"#, "{}", "no"] {
        kazoo.publish("kapps", "ws.module_req", malformed.as_bytes()).await;
    }
    blackhole_tests::eventually("4 malformed requests", || async {
        deployment.counted("module", "malformed").await == 4
    })
    .await;
    // Without a Server-ID it is done, but not answered.
    kazoo.publish("kapps", "ws.module_req", br#"{"Module":"call","Action":"stop","Persist":true}"#).await;
    blackhole_tests::eventually("the stop", || async {
        stored(&client).await.unwrap() == ["call", "presence"]
    })
    .await;
}

#[tokio::test]
async fn without_an_edge_a_module_cannot_be_started() {
    let deployment = Deployment::start("no-edges").await;
    let mut kazoo = deployment.kazoo("kazoo_apps@apps01-4").await;
    let answer = kazoo.module(json!({ "Module": "bh_call", "Action": "start", "Persist": false })).await;
    assert_eq!((&answer["Started"], &answer["Error"]), (&json!(false), &json!("no edge has answered")));
    let answer = kazoo.sockets(json!({ "Account-ID": "acc" })).await;
    assert_eq!(answer["Data"], json!([]), "without edges there are no sockets");
}
