//! Whose an event is: its tenant, found where the catalogue says.

use std::borrow::Cow;

use blackhole_common::{
    catalogue::{Catalogue, Event, Template, TenantKind, TenantSource},
    tenant::Tenant,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::{
    body,
    message::{Message, Origin},
};

/// Longer ids and realms are not usable: KAZOO's ids have 32 characters, a host name at most 253, and the subject
/// has to stay below NATS's limit.
const MAX_TENANT_BYTES: usize = 255;

/// The subject below `root` that an event of this exchange, key and body is published to; none where the catalogue
/// does not have it or it cannot be passed on. What the ingest does, without brokers.
pub fn subject(catalogue: &Catalogue, root: &str, exchange: &str, key: &str, body: &Bytes) -> Option<String> {
    let event = catalogue.event(exchange, key)?;
    let facts = body::read(body, &body_paths(event)).ok()?;
    let origin = Origin { exchange, key, message_id: None, timestamp: None, zone: "" };
    let tenant = tenant(event, key, &facts.members);
    Some(Message::new(root, &tenant, &facts.name, &origin, body.clone()).subject)
}

/// The body paths of an event's tenant sources, in their order.
pub(crate) fn body_paths(event: &Event) -> Vec<&str> {
    event.tenant.iter().filter_map(|source| source.body.as_deref()).collect()
}

/// The tenant of an event with this routing key; `members` is what the body has at [`body_paths`].
///
/// The first source that has a usable text decides; a database always does, since a database that is no account's
/// is nobody's.
pub(crate) fn tenant(event: &Event, key: &str, members: &[Option<Cow<'_, str>>]) -> Tenant {
    let mut members = members.iter();
    for source in &event.tenant {
        let text = match &source.key {
            Some(parameter) => word(&event.key, key, parameter).map(|word| decoded(source, word)),
            None => members.next().and_then(|text| text.as_deref()).map(Cow::Borrowed),
        };
        let tenant = match source.kind {
            TenantKind::Database => return text.map_or(Tenant::Nobody, |text| Tenant::of_database(&text)),
            TenantKind::Account => text.as_deref().filter(usable).map(Tenant::account),
            TenantKind::Realm => text.as_deref().filter(usable).map(Tenant::realm),
            TenantKind::Address => text.as_deref().and_then(realm_of).filter(usable).map(Tenant::realm),
        };
        if let Some(tenant) = tenant {
            return tenant;
        }
    }
    Tenant::Nobody
}

fn usable(text: &&str) -> bool {
    !text.is_empty() && text.len() <= MAX_TENANT_BYTES
}

/// The word of a key that a parameter of its template has.
fn word<'k>(template: &Template, key: &'k str, parameter: &str) -> Option<&'k str> {
    key.split('.').nth(template.position(parameter)?)
}

/// Words of a key are percent-encoded. Account ids have nothing to encode, and databases are known by their
/// encoded names.
fn decoded<'k>(source: &TenantSource, word: &'k str) -> Cow<'k, str> {
    match source.kind {
        TenantKind::Account | TenantKind::Database => Cow::Borrowed(word),
        TenantKind::Realm | TenantKind::Address => percent_decode_str(word).decode_utf8_lossy(),
    }
}

/// The realm of a SIP address: `user@realm`, also as a URI with scheme, port and parameters (RFC 3261, 19.1.1),
/// also in angle brackets.
fn realm_of(address: &str) -> Option<&str> {
    let uri = match address.split_once('<') {
        Some((_, rest)) => rest.split_once('>')?.0,
        None => address,
    };
    // A user part may hold `;` and `?`, but no unescaped `@`.
    let (_, host) = uri.rsplit_once('@')?;
    let host = host.split([';', '?']).next().unwrap_or(host).trim();
    match host.strip_prefix('[') {
        // An IPv6 address keeps its colons.
        Some(rest) => rest.split_once(']').map(|(address, _)| address),
        None => host.split(':').next(),
    }
}

#[cfg(test)]
mod tests;
