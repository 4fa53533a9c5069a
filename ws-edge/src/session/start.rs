//! What a session begins with.

use std::net::IpAddr;

use super::{state::Identity, transport::Carrier};
use crate::{
    ids::SessionNumber,
    limits::connection_limit::{ConnectionPermit, SessionPermit},
    protocol::view::View,
};

/// The parameters of a session, from its HTTP request.
#[derive(Debug)]
pub(crate) struct SessionStart {
    /// Its number on this edge.
    pub(crate) number: SessionNumber,
    /// The client's address.
    pub(crate) address: IpAddr,
    /// The view of its event frames.
    pub(crate) view: View,
    /// What the request asked for.
    pub(crate) carrier: Carrier,
    /// Its identity, if the request had a token.
    pub(crate) identity: Option<Identity>,
    /// Its connection's permit at the client's address.
    pub(crate) permit: ConnectionPermit,
    /// Its permit among all sessions.
    pub(crate) session_permit: SessionPermit,
}
