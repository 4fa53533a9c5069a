//! Finds the tenant of an event, and its owner within the tenant, in the places that the catalogue names.

use std::borrow::Cow;

use blackhole_common::{
    catalogue::{Catalogue, Event, OwnerKind, Template, TenantKind, TenantSource},
    owner::Owner,
    tenant::Tenant,
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;

use crate::{
    body,
    message::{EventMetadata, Message},
};

/// Longer ids and realms are ignored. KAZOO's ids have 32 characters and host names at most 253; the limit keeps the
/// subject below NATS's maximum.
pub(crate) const MAX_TENANT_BYTES: usize = 255;

/// Returns the subject below `root` to which the ingest publishes an event, and its owner. `None` if the catalogue does
/// not contain the event or its body would be rejected. Needs no broker.
pub fn subject(
    catalogue: &Catalogue,
    root: &str,
    exchange: &str,
    key: &str,
    body: &Bytes,
) -> Option<(String, Option<Owner>)> {
    message(catalogue, root, exchange, key, body).map(|(message, owner)| (message.subject, owner))
}

/// Returns the subject and the body of an event that names a dialled number instead of an account, once auth-svc has told its
/// `account_id`. `None` for other events. Needs no broker.
pub fn dialled(
    catalogue: &Catalogue,
    root: &str,
    exchange: &str,
    key: &str,
    body: &Bytes,
    account_id: &str,
) -> Option<(String, Bytes)> {
    let (mut message, _) = message(catalogue, root, exchange, key, body)?;
    message.dialled.as_ref()?;
    message.give_to(account_id);
    Some((message.subject, message.body))
}

fn message(
    catalogue: &Catalogue,
    root: &str,
    exchange: &str,
    key: &str,
    body: &Bytes,
) -> Option<(Message, Option<Owner>)> {
    let event = catalogue.event(exchange, key)?;
    let repaired = body::repair(body).map(Bytes::from);
    let body = repaired.as_ref().unwrap_or(body);
    let parsed = body::parse(body, &body_paths(event)).ok()?;
    let metadata = EventMetadata { exchange, routing_key: key, message_id: None, timestamp: None, zone: "" };
    let (tenant, owner) = resolve(event, key, &parsed.members);
    let mut message = Message::new(root, &tenant, owner.as_ref(), &parsed.name, &metadata, body.clone());
    message.look_up(event, key, &tenant, root);
    Some((message, owner))
}

/// The body paths of an event's tenant sources, then those of its owner's, in order.
pub(crate) fn body_paths(event: &Event) -> Vec<&str> {
    let owners = event.owner.iter().filter_map(|source| source.body.as_deref());
    event.tenant.iter().filter_map(|source| source.body.as_deref()).chain(owners).collect()
}

/// Returns the tenant of an event with this routing key, and its owner within the tenant. `members` are the values at
/// [`body_paths`].
pub(crate) fn resolve(event: &Event, key: &str, members: &[Option<Cow<'_, str>>]) -> (Tenant, Option<Owner>) {
    let of_tenant = event.tenant.iter().filter(|source| source.body.is_some()).count();
    let (tenants, owners) = members.split_at_checked(of_tenant).unwrap_or((members, &[]));
    (tenant(event, key, tenants), owner(event, key, owners))
}

/// The first source with a value decides, as with tenants.
fn owner(event: &Event, key: &str, members: &[Option<Cow<'_, str>>]) -> Option<Owner> {
    let mut members = members.iter();
    event.owner.iter().find_map(|source| {
        let text = match &source.key {
            Some(parameter) => key_word(&event.key, key, parameter).map(decode_word),
            None => members.next().and_then(|text| text.as_deref()).map(Cow::Borrowed),
        };
        let text = text.filter(|text| is_valid(&&**text))?;
        Some(match source.kind {
            OwnerKind::Document => Owner::Document(text.into_owned()),
            OwnerKind::Presence => Owner::presence(&text),
            OwnerKind::Token => Owner::Token(text.into_owned()),
        })
    })
}

/// The first source with a valid value decides. A database source always decides: if the database belongs to no
/// account, neither does the event.
fn tenant(event: &Event, key: &str, members: &[Option<Cow<'_, str>>]) -> Tenant {
    let mut members = members.iter();
    event
        .tenant
        .iter()
        .find_map(|source| of_source(event, source, key, &mut members))
        .unwrap_or(Tenant::Nobody)
}

/// All tenants that KAZOO names in an event. Addresses do not count: callers choose them.
pub(crate) fn named(event: &Event, key: &str, members: &[Option<Cow<'_, str>>]) -> Vec<Tenant> {
    let mut members = members.iter();
    let mut tenants = Vec::new();
    for source in &event.tenant {
        let tenant = of_source(event, source, key, &mut members);
        tenants.extend(tenant.filter(|own| source.kind != TenantKind::Address && *own != Tenant::Nobody));
    }
    tenants
}

/// The tenant at a source. `members` are the values at the rest of [`body_paths`].
fn of_source<'m>(
    event: &Event,
    source: &TenantSource,
    key: &str,
    members: &mut impl Iterator<Item = &'m Option<Cow<'m, str>>>,
) -> Option<Tenant> {
    let text = match &source.key {
        Some(parameter) => key_word(&event.key, key, parameter).map(|word| decode(source, word)),
        None => members.next().and_then(|text| text.as_deref()).map(Cow::Borrowed),
    };
    match source.kind {
        TenantKind::Database => Some(text.map_or(Tenant::Nobody, |text| Tenant::of_database(&text))),
        TenantKind::Account => text.as_deref().filter(is_valid).map(Tenant::account),
        TenantKind::Realm => text.as_deref().filter(is_valid).map(Tenant::realm),
        TenantKind::Address => text.as_deref().and_then(sip_realm).filter(is_valid).map(Tenant::realm),
    }
}

fn is_valid(text: &&str) -> bool {
    !text.is_empty() && text.len() <= MAX_TENANT_BYTES
}

/// The word of a routing key at the position of a template's parameter.
fn key_word<'k>(template: &Template, key: &'k str, parameter: &str) -> Option<&'k str> {
    key.split('.').nth(template.position(parameter)?)
}

/// Words of a routing key are percent-encoded. Account ids contain nothing to decode, and databases are known by their
/// encoded names.
fn decode<'k>(source: &TenantSource, word: &'k str) -> Cow<'k, str> {
    match source.kind {
        TenantKind::Account | TenantKind::Database => Cow::Borrowed(word),
        TenantKind::Realm | TenantKind::Address => percent_decode_str(word).decode_utf8_lossy(),
    }
}

/// The text of a word that KAZOO has encoded.
fn decode_word(word: &str) -> Cow<'_, str> {
    if !word.contains(['%', '+']) {
        return Cow::Borrowed(word);
    }
    let word = word.replace('+', " ");
    Cow::Owned(percent_decode_str(&word).decode_utf8_lossy().into_owned())
}

/// The realm of a SIP address: `user@realm`, or a URI with scheme, port and parameters (RFC 3261, 19.1.1), with or
/// without angle brackets.
fn sip_realm(address: &str) -> Option<&str> {
    let uri = match address.split_once('<') {
        Some((_, rest)) => rest.split_once('>')?.0,
        None => address,
    };
    // The user part may contain `;` and `?`, but no unescaped `@`.
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
