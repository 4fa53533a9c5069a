//! The bodies of events: which members the events of a family have, and of which types, as read from reference events.

use std::{collections::BTreeMap, sync::LazyLock};

use blackhole_common::catalogue::Catalogue;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::with;
use crate::delivery::frame::normalize::normalize;

/// Events as KAZOO has published them, one a line.
static REFERENCE: LazyLock<Vec<Reference>> = LazyLock::new(|| {
    let lines = include_str!("../../clients/reference-events.jsonl").lines();
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
});

#[derive(Deserialize)]
struct Reference {
    exchange: String,
    routing_key: String,
    body: Value,
}

/// What was seen at one place of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) is_text: bool,
    pub(super) is_integer: bool,
    pub(super) is_fraction: bool,
    pub(super) is_bool: bool,
    pub(super) members: Option<BTreeMap<String, Shape>>,
    pub(super) items: Option<Box<Shape>>,
}

/// The body of a family's events, as published and [normalized](normalize).
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) family: String,
    pub(super) args: Shape,
    pub(super) data: Shape,
}

/// The bodies of all families, in the catalogue's order. Without a reference event, a family has the members that all
/// events have.
pub(super) fn all(catalogue: &Catalogue) -> Vec<Body> {
    let common = common();
    let families = catalogue.families().iter();
    families
        .map(|family| {
            let mut body =
                Body { family: family.name.clone(), args: common.0.clone(), data: common.1.clone() };
            let kinds = |one: &&Reference| {
                let mut kinds = catalogue.kinds_of_key(&one.routing_key);
                kinds.any(|(_, name, event)| name == family.name && event.exchange == one.exchange)
            };
            for one in REFERENCE.iter().filter(kinds) {
                body.args.see(&one.body);
                body.data.see(&normalized(&one.body));
            }
            body
        })
        .collect()
}

/// The members that all reference events have.
pub(super) fn common() -> (Shape, Shape) {
    let (mut args, mut data) = (Shape::default(), Shape::default());
    for one in REFERENCE.iter() {
        let everywhere = |members: &Map<String, Value>| -> Value {
            let is = |name: &String| REFERENCE.iter().all(|other| other.body.get(name).is_some());
            members
                .iter()
                .filter(|(name, _)| is(name))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect()
        };
        let body = one.body.as_object().map(everywhere).unwrap_or_default();
        args.see(&body);
        data.see(&normalized(&body));
    }
    (args, data)
}

fn normalized(body: &Value) -> Value {
    normalize(body.to_string().as_bytes())
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

impl Shape {
    fn see(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(_) => self.is_bool = true,
            Value::Number(number) if number.is_f64() => self.is_fraction = true,
            Value::Number(_) => self.is_integer = true,
            Value::String(_) => self.is_text = true,
            Value::Array(items) => {
                let shape = self.items.get_or_insert_default();
                items.iter().for_each(|item| shape.see(item));
            }
            Value::Object(members) => {
                let shapes = self.members.get_or_insert_default();
                for (name, value) in members {
                    shapes.entry(name.clone()).or_default().see(value);
                }
            }
        }
    }

    /// As a JSON Schema. Any member may be `null`, and there may be others.
    pub(super) fn schema(&self) -> Value {
        let mut schema = Map::new();
        let types: Vec<&str> = self.types().collect();
        // Only `null` was seen.
        if !types.is_empty() {
            schema.insert("type".into(), types.into_iter().chain(["null"]).collect());
        }
        if let Some(items) = &self.items {
            schema.insert("items".into(), items.schema());
        }
        if let Some(members) = self.members.as_ref().filter(|members| !members.is_empty()) {
            schema.insert(
                "properties".into(),
                members.iter().map(|(name, one)| (name.clone(), one.schema())).collect(),
            );
        }
        Value::Object(schema)
    }

    /// As the schema of a whole body, which has this member in any case.
    pub(super) fn body_schema(&self, name: &str) -> Value {
        let member =
            json!({ "type": "object", "required": [name], "properties": { name: { "type": "string" } } });
        with(self.schema(), member)
    }

    /// The names of the JSON types.
    pub(super) fn types(&self) -> impl Iterator<Item = &'static str> {
        let number = if self.is_fraction { "number" } else { "integer" };
        [
            (self.is_text, "string"),
            (self.is_integer || self.is_fraction, number),
            (self.is_bool, "boolean"),
            (self.items.is_some(), "array"),
            (self.members.is_some(), "object"),
        ]
        .into_iter()
        .filter_map(|(is, name)| is.then_some(name))
    }
}
