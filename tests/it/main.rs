//! The end-to-end tests: one program.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod admin;
mod browser;
mod chaos;
mod client;
mod cluster;
mod compat;
mod compression;
mod configuration;
mod console;
mod containers;
mod couchdb;
mod crossbar;
mod dev_up;
mod doctor;
mod documents;
mod drain;
mod edge_tls;
mod elsewhere;
mod event_streams;
mod facts;
mod families;
mod hostile;
mod http;
mod kazoo_clients;
mod metrics;
mod migrating;
mod nats_login;
mod numbers;
mod once;
mod outages;
mod own_events;
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
mod standby;
mod state;
mod stopped_families;
mod subscriptions;
mod targeted;
mod tls;
mod tokens;
mod topology;
mod wss;
mod zones;
