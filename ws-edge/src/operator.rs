//! For operators: the list of sessions, requests over NATS, draining.

pub(crate) mod admin_pages;
pub(crate) mod control;
pub(crate) mod drain;
mod paging;
pub(crate) mod rechecks;
pub(crate) mod registry;
pub(crate) mod releases;
