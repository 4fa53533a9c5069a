//! What clients send and receive, for programs: AsyncAPI 3 with JSON Schemas, and types for the client packages.
//!
//! Families come from the catalogue, the members of their events from reference events, limits and close codes from the
//! code that keeps them. `cargo dev schema` writes the files.

mod bindings;
mod bodies;
mod document;
mod event_streams;
mod frames;
mod languages;
mod requests;
mod yaml;

use blackhole_common::catalogue::Catalogue;
use serde_json::Value;

pub use document::asyncapi;

/// The files that are made of the built-in catalogue: the path in the repository, and the text.
pub fn files(catalogue: &Catalogue) -> [(&'static str, String); 3] {
    [
        ("docs/asyncapi.yaml", yaml::write(&asyncapi(catalogue))),
        ("ws-edge/clients/js/events.d.ts", languages::typescript(catalogue)),
        ("ws-edge/clients/python/src/blackhole_events/events.py", languages::python(catalogue)),
    ]
}

/// A schema with more members, at any depth; those of the same name are replaced.
fn with(mut schema: Value, more: Value) -> Value {
    merge(&mut schema, more);
    schema
}

fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

#[cfg(test)]
mod tests;
