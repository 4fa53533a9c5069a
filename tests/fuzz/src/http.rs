//! HTTP requests, read by hyper and then by the two ports.

use std::{convert::Infallible, sync::Mutex};

use blackhole_common::{admin::access::Access, config::Secret};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::Full;
use hyper::{Method, Request, Response, Version, body::Body, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use ws_edge::{
    http::{events, upgrade::check},
    protocol::{
        request::{Action, Request as Asked},
        view::View,
    },
};

const TOKEN: &str = "a token of the admin port";

/// An accepted upgrade is what RFC 6455 demands, and has nothing behind it that another reader may take for a request.
pub(crate) fn run_upgrade(input: &[u8]) -> bool {
    serve(input, |request| {
        let Ok(checked) = check(request, View::Both) else { return false };
        assert_eq!((request.method(), request.version()), (&Method::GET, Version::HTTP_11));
        let count = |name: &str| request.headers().get_all(name).iter().count();
        assert_eq!((count("host"), count("sec-websocket-key")), (1, 1));
        assert_eq!((count("transfer-encoding"), count("sec-websocket-protocol")), (0, 0));
        assert!(request.body().is_end_stream());
        assert_eq!(checked.accept.len(), 28);
        true
    })
}

/// An accepted request for an event stream has no body that another reader may take for a request, and its query is a
/// request to subscribe, or one that a WebSocket session would answer with an error.
pub(crate) fn run_events(input: &[u8]) -> bool {
    serve(input, |request| {
        let Ok(asked) = events::check(request) else { return false };
        assert_eq!(request.method(), &Method::GET);
        assert!(request.body().is_end_stream());
        let subscribe = Asked::read(&asked.subscribe).unwrap();
        assert!(subscribe.token.is_none() && subscribe.request_id.is_none());
        match subscribe.action() {
            Ok(Action::Subscribe(subscribe)) => {
                assert!(!subscribe.bindings.is_empty() && subscribe.client.metadata.is_none());
                true
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => false,
        }
    })
}

/// Whoever gets in has the token, or names this machine.
pub(crate) fn run_admin(input: &[u8]) -> bool {
    serve(input, |request| {
        let headers = request.headers();
        let listen = ([127, 0, 0, 1], 9090).into();
        let has_token = Access::new(Some(Secret::new(TOKEN)), false, listen).check(headers).is_ok();
        if has_token {
            let sent = headers.get("authorization").unwrap().to_str().unwrap();
            assert_eq!(sent.split_once(' ').unwrap().1, TOKEN);
        }
        let is_local = Access::new(None, false, listen).check(headers).is_ok();
        if let (true, Some(host)) = (is_local, headers.get("host")) {
            let host = host.to_str().unwrap();
            assert!(
                !host.bytes().any(|byte| byte.is_ascii_alphabetic() && !byte.is_ascii_hexdigit())
                    || host.to_ascii_lowercase().starts_with("localhost"),
                "{host}"
            );
        }
        assert!(Access::new(None, false, ([0, 0, 0, 0], 9090).into()).check(headers).is_err());
        has_token
    })
}

/// Lets hyper read a connection that sends `input`. Returns whether `accept` does so with one of the requests.
fn serve(input: &[u8], accept: impl Fn(&Request<Incoming>) -> bool) -> bool {
    let is_accepted = Mutex::new(false);
    let service = service_fn(|request| {
        *is_accepted.lock().unwrap() |= accept(&request);
        std::future::ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::default())))
    });
    let io = TokioIo::new(tokio::io::join(input, tokio::io::sink()));
    // Ready at once: all bytes are there.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).now_or_never();
    is_accepted.into_inner().unwrap()
}
