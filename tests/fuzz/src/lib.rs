//! Fuzz targets for everything that reads bytes from outside.
//!
//! A target checks more than that nothing panics: a reader and a writer are each other's inverse, two ways to read give the
//! same, a promise of the documentation holds. `cargo dev fuzz` runs the targets under libFuzzer. The inputs in `corpus/`
//! are the smallest that reach all code that any input has reached; they run as an ordinary test.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)] // All of this is test code.

mod accounts;
mod address;
mod amqp;
mod amqp_methods;
mod amqp_properties;
mod binding;
mod body;
mod catalogue;
mod couchdb;
mod cursor;
mod delivery;
mod endpoint;
mod frame;
mod http;
mod json;
mod jwks;
mod kazoo_requests;
mod key;
mod nats;
mod patterns;
mod pieces;
mod puback;
mod request;
mod stream_info;
mod subject;
mod token;
mod websocket;
mod wire;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, also that of its folder in `corpus/`.
    pub name: &'static str,
    /// What it reads, and from whom.
    pub reads: &'static str,
    /// Panics if the input breaks a promise. Returns whether the reader accepts the input.
    pub run: fn(&[u8]) -> bool,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    target("accounts", "the accounts file, from the operator", accounts::run),
    target("address", "X-Forwarded-For and Forwarded, from clients and proxies", address::run),
    target("admin", "HTTP requests to the admin port", http::run_admin),
    target("amqp-frames", "AMQP frames, from RabbitMQ", amqp::run),
    target("amqp-methods", "AMQP methods and the tables in them, from RabbitMQ", amqp_methods::run),
    target(
        "amqp-properties",
        "AMQP content headers, from whoever publishes to RabbitMQ",
        amqp_properties::run,
    ),
    target("binding", "bindings, from clients", binding::run),
    target("body", "bodies of events, from KAZOO", body::run),
    target("catalogue", "the catalogue file, from the operator", catalogue::run),
    target("compressed", "compressed WebSocket frames, from clients", websocket::run_compressed),
    target("couchdb", "documents and changes, from CouchDB", couchdb::run),
    target("cursor", "cursors and ages, from clients", cursor::run),
    target("delivery", "exchange, routing key and body of an event, from KAZOO", delivery::run),
    target("endpoint", "paths of the action `api`, from clients", endpoint::run),
    target("events", "HTTP requests for event streams", http::run_events),
    target("frame", "events, from NATS", frame::run),
    target("jwks", "keys and answers about tokens, from issuers and Crossbar", jwks::run),
    target("kazoo-requests", "requests about sessions and modules, from KAZOO", kazoo_requests::run),
    target("key", "PEM files of public keys, from the operator", key::run),
    target("nats", "the NATS protocol, from nats-server", nats::run),
    target("puback", "replies to published events and ids of stored ones, from nats-server", puback::run),
    target("request", "requests, from clients", request::run),
    target("stream-info", "the state of the stream, from nats-server", stream_info::run),
    target("subject", "routing keys, patterns and subjects", subject::run),
    target("token", "tokens and their claims, from clients", token::run),
    target("upgrade", "HTTP requests to the WebSocket port", http::run_upgrade),
    target("websocket", "WebSocket frames, from clients", websocket::run),
    target("wire", "messages of the services to each other, from NATS", wire::run),
];

const fn target(name: &'static str, reads: &'static str, run: fn(&[u8]) -> bool) -> Target {
    Target { name, reads, run }
}

/// The target with this name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests;
