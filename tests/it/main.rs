//! The end-to-end tests: one program.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod admin;
mod browser;
mod chaos;
mod client;
mod cluster;
mod configuration;
mod console;
mod couchdb;
mod crossbar;
mod dev_up;
mod documents;
mod drain;
mod families;
mod hostile;
mod http;
mod migrating;
mod nats_login;
mod once;
mod outages;
mod permissions;
mod protocol;
mod proxies;
mod realms;
mod refusals;
mod requests;
mod resume;
mod revoked;
mod scaling;
mod sessions;
mod state;
mod stopped_families;
mod subscriptions;
mod targeted;
mod tls;
mod tokens;
mod topology;
mod wss;
mod zones;
