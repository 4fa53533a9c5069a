//! The pages of every edge: the console, the JavaScript client, the list of bindings, and the services' releases.

use std::sync::LazyLock;

use blackhole_common::version;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};
use serde::Serialize;

use super::{bindings, refusal::Refusal};
use crate::{edge::Edge, operator::releases::Release, schema};

/// What a browser may do on a page: run and load files of this edge and connect to it, also as `ws:` or `wss:`, and
/// nothing else. The page's icon is in the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The npm package's module.
const CLIENT: &str = include_str!("../../clients/js/client.js");

/// The same as a classic script, which defines `BlackholeClient`, also for `require`.
static CLASSIC_CLIENT: LazyLock<String> = LazyLock::new(|| {
    let exports = "if (typeof module === 'object' && module.exports) module.exports = { BlackholeClient };";
    format!("{}\n{exports}\n", CLIENT.replace("\nexport class ", "\nclass "))
});

/// The console's files, and the client: path, content type, content.
const FILES: [(&str, &str, &str); 17] = [
    ("/", HTML, include_str!("../../web/console.html")),
    ("/console.css", CSS, include_str!("../../web/console.css")),
    ("/client.mjs", JAVASCRIPT, CLIENT),
    ("/calls", HTML, include_str!("../../web/calls.html")),
    ("/calls.css", CSS, include_str!("../../web/calls.css")),
    ("/calls.js", JAVASCRIPT, include_str!("../../web/calls.js")),
    ("/console.js", JAVASCRIPT, include_str!("../../web/console.js")),
    ("/console/bindings.js", JAVASCRIPT, include_str!("../../web/console/bindings.js")),
    ("/console/connection.js", JAVASCRIPT, include_str!("../../web/console/connection.js")),
    ("/console/event.js", JAVASCRIPT, include_str!("../../web/console/event.js")),
    ("/console/events.js", JAVASCRIPT, include_str!("../../web/console/events.js")),
    ("/console/json.js", JAVASCRIPT, include_str!("../../web/console/json.js")),
    ("/console/page.js", JAVASCRIPT, include_str!("../../web/console/page.js")),
    ("/console/replies.js", JAVASCRIPT, include_str!("../../web/console/replies.js")),
    ("/console/state.js", JAVASCRIPT, include_str!("../../web/console/state.js")),
    ("/console/subscriptions.js", JAVASCRIPT, include_str!("../../web/console/subscriptions.js")),
    ("/console/token.js", JAVASCRIPT, include_str!("../../web/console/token.js")),
];

/// Release and commit of this edge, and those of all services that run.
fn version_json(edge: &Edge) -> String {
    let services: Vec<_> =
        edge.releases.list().into_iter().map(|(release, processes)| Running { release, processes }).collect();
    serde_json::json!({ "version": version::RELEASE, "commit": version::COMMIT, "services": services })
        .to_string()
}

/// What clients send and receive, as AsyncAPI, with the operator's families.
fn asyncapi_json(edge: &Edge) -> Bytes {
    edge.asyncapi.get_or_init(|| schema::asyncapi(&edge.catalogue).to_string().into()).clone()
}

/// A release and how many processes of it run.
#[derive(Serialize)]
struct Running {
    #[serde(flatten)]
    release: Release,
    processes: usize,
}

/// The page at the request's path.
pub(super) fn page(edge: &Edge, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
    let path = request.uri().path();
    let file = FILES.iter().find(|(own, _, _)| *own == path);
    let (content_type, content) = match file {
        Some((_, content_type, content)) => (*content_type, Full::from(*content)),
        None if path == "/client.js" => (JAVASCRIPT, Full::from(CLASSIC_CLIENT.as_str())),
        None if path == "/version" => ("application/json", Full::from(version_json(edge))),
        None if path == "/asyncapi.json" => ("application/json", Full::from(asyncapi_json(edge))),
        None if path == "/bindings" => ("application/json", Full::from(bindings::json(&edge.catalogue))),
        None => {
            let text = "nothing here: open a WebSocket at any path, or / for the console";
            return Err(Refusal::new(StatusCode::NOT_FOUND, "not_found", text));
        }
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method", "only GET here")
            .with_header(header::ALLOW, "GET, HEAD"));
    }
    let mut response = Response::new(content);
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        // Pages of other origins may load the client and the list of bindings.
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
