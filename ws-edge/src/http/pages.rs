//! The pages of every edge: the console, the JavaScript client, and the list of bindings.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
};

use super::{bindings, refusal::Refusal};
use crate::edge::Edge;

const CONSOLE: &str = include_str!("../../web/console.html");
const CLIENT: &str = include_str!("../../web/client.js");
const CONSOLE_POLICY: &str = "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; connect-src *; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page at the request's path.
pub(super) fn page(edge: &Edge, request: &Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
    let (content_type, content) = match request.uri().path() {
        "/" => ("text/html; charset=utf-8", Full::from(CONSOLE)),
        "/client.js" => ("text/javascript; charset=utf-8", Full::from(CLIENT)),
        "/bindings" => ("application/json", Full::from(bindings::json(&edge.catalogue))),
        _ => {
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
        (header::CONTENT_SECURITY_POLICY, CONSOLE_POLICY),
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
