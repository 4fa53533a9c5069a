//! The catalogue's binding forms as public JSON, for the console and for applications that let users choose bindings.

use std::collections::BTreeMap;

use blackhole_common::catalogue::{Catalogue, Event, Family, Form};
use serde::Serialize;

/// One form of binding.
#[derive(Serialize)]
struct BindingForm<'a> {
    family: &'a str,
    /// The form; words in braces are parameters.
    binding: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    about: Option<&'a str>,
    /// The words that a parameter allows besides `*`; parameters not listed allow any word.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    values: BTreeMap<&'a str, &'a [String]>,
    /// Parameters that must not be `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required: Vec<&'a str>,
    /// Parameters that may be `*` only with a superduper admin's token.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    required_unless_superduper: Vec<&'a str>,
}

/// `{"bindings":[…]}`, in the catalogue's order.
pub(super) fn json(catalogue: &Catalogue) -> String {
    let mut forms: Vec<BindingForm<'_>> = Vec::new();
    for family in catalogue.families() {
        for (event, form) in
            family.event.iter().flat_map(|event| event.form.iter().map(move |form| (event, form)))
        {
            // Several kinds of events may have the same form.
            let form = binding_form(family, event, form);
            if !forms.iter().any(|other| (other.family, other.binding) == (form.family, form.binding)) {
                forms.push(form);
            }
        }
    }
    serde_json::json!({ "bindings": forms }).to_string()
}

fn binding_form<'a>(family: &'a Family, event: &'a Event, form: &'a Form) -> BindingForm<'a> {
    let values = form.binding.parameters().filter_map(|name| {
        if form.wildcards.iter().any(|wildcard| wildcard == name) {
            return Some((name, [].as_slice()));
        }
        let values = form.values.get(name).or_else(|| event.values.get(name));
        Some((name, values?.as_slice()))
    });
    let mut required: Vec<&str> =
        form.required.keys().chain(form.not_values.keys()).map(String::as_str).collect();
    // No family has a wildcard as its first word.
    required.extend(form.binding.parameters().filter(|name| form.binding.position(name) == Some(0)));
    BindingForm {
        family: &family.name,
        binding: form.binding.as_str(),
        about: form.about.as_deref(),
        values: values.collect(),
        required,
        required_unless_superduper: form.required_unless_superduper.keys().map(String::as_str).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_listed_with_its_parameters() {
        let catalogue = Catalogue::load(None).unwrap();
        let all: serde_json::Value = serde_json::from_str(&json(&catalogue)).unwrap();
        let forms = all["bindings"].as_array().unwrap();
        let form = |binding: &str| forms.iter().find(|form| form["binding"] == binding).unwrap();
        assert_eq!(forms.len(), 17, "{forms:?}");
        assert!(forms.iter().all(|form| form["about"].is_string()), "{forms:?}");
        assert_eq!(form("call.{event}.{call_id}")["values"]["event"][0], "CHANNEL_CREATE");
        assert_eq!(form("call.{event}.{call_id}").get("required"), None);
        assert_eq!(
            *form("conference.command.{conference_id}"),
            serde_json::json!({
                "family": "conference",
                "binding": "conference.command.{conference_id}",
                "about": "Commands to one conference",
                "required_unless_superduper": ["conference_id"],
            })
        );
        assert_eq!(form("conference.event.{conference_id}.{call_id}")["required"][0], "conference_id");
        assert_eq!(form("{action}.{database}.{type}.{id}")["required"][0], "action");
        assert_eq!(form("relay.{event}")["family"], "relay");
    }
}
