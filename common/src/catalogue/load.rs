//! Reads, merges and validates catalogues.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use thiserror::Error;

use super::{ACCOUNT, Catalogue, Event, Family, Form, Part, Template, TenantKind};

/// The longest exchange, routing key or binding: AMQP's short strings.
const MAX_KEY_BYTES: usize = 255;

/// The most bindings of the queue for one kind of event. KAZOO's events need a dozen.
const MAX_PATTERNS: usize = 1000;

const BUILT_IN: &str = include_str!("../catalogue.toml");

/// An invalid catalogue. The service does not start.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// The file cannot be read.
    #[error("catalogue {file}: {reason}")]
    Unreadable {
        /// The file.
        file: String,
        /// The error of the operating system.
        reason: std::io::Error,
    },
    /// The file is not valid TOML or does not have the expected structure.
    #[error("catalogue {file}: {reason}")]
    Malformed {
        /// The file.
        file: String,
        /// The position and the error, on one line.
        reason: String,
    },
    /// A family is invalid or conflicts with another.
    #[error("catalogue: family `{family}`: {reason}")]
    Family {
        /// The family's name.
        family: String,
        /// What is wrong.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    family: Vec<Family>,
    #[serde(default)]
    extend: Vec<Extension>,
}

/// Additions of an operator's file to an existing family.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Extension {
    family: String,
    #[serde(default)]
    values: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    event: Vec<Event>,
}

impl Catalogue {
    /// Loads the built-in families and, if given, the operator's `file`.
    ///
    /// # Errors
    /// The first mistake, with the family and the reason.
    pub fn load(file: Option<&Path>) -> Result<Catalogue, CatalogueError> {
        let Some(path) = file else { return Catalogue::with("", "") };
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Catalogue::with(&name, &text),
            Err(reason) => Err(CatalogueError::Unreadable { file: name, reason }),
        }
    }

    /// The built-in families and those of an operator's file with this `name` and `text`.
    ///
    /// # Errors
    /// The first mistake, with the family and the reason.
    pub fn with(name: &str, text: &str) -> Result<Catalogue, CatalogueError> {
        let mut catalogue = Catalogue { families: parse("(built in)", BUILT_IN)?.family };
        catalogue.merge(parse(name, text)?)?;
        catalogue.check()?;
        Ok(catalogue)
    }

    fn merge(&mut self, file: File) -> Result<(), CatalogueError> {
        for family in file.family {
            match self.families.iter().position(|known| known.name == family.name) {
                Some(_) if !family.replace => {
                    return Err(invalid(
                        &family.name,
                        "there is one of this name already: add `replace = true`, or use [[extend]] to add to it",
                    ));
                }
                Some(index) => {
                    self.families.remove(index);
                    self.families.insert(index, family);
                }
                None => self.families.push(family),
            }
        }
        for extension in file.extend {
            let Some(family) = self.families.iter_mut().find(|family| family.name == extension.family) else {
                return Err(invalid(&extension.family, "there is no such family to extend"));
            };
            for (parameter, values) in extension.values {
                let lists = family.event.iter_mut().flat_map(|event| {
                    let in_forms = event.form.iter_mut().map(|form| &mut form.values);
                    std::iter::once(&mut event.values).chain(in_forms)
                });
                let mut lists = lists.filter_map(|values| values.get_mut(&parameter)).peekable();
                if lists.peek().is_none() {
                    return Err(invalid(
                        &family.name,
                        &format!("`{parameter}` has no list of values to extend"),
                    ));
                }
                for list in lists {
                    list.extend(values.iter().cloned());
                }
            }
            family.event.extend(extension.event);
        }
        Ok(())
    }

    fn check(&self) -> Result<(), CatalogueError> {
        for (index, family) in self.families.iter().enumerate() {
            let error = |reason: String| invalid(&family.name, &reason);
            if self.families.iter().take(index).any(|other| other.name == family.name) {
                return Err(error("is defined twice".into()));
            }
            if family.event.is_empty() {
                return Err(error("has no [[family.event]]".into()));
            }
            for event in &family.event {
                event.check().map_err(|reason| error(format!("event `{}`: {reason}", event.key.as_str())))?;
                self.check_against_others(event).map_err(error)?;
                check_against_family(event, family).map_err(error)?;
            }
        }
        Ok(())
    }

    /// Subjects do not contain the exchange, so events on different exchanges must have distinct keys. An
    /// exchange has only one type.
    fn check_against_others(&self, event: &Event) -> Result<(), String> {
        for family in &self.families {
            for other in &family.event {
                if other.exchange == event.exchange && other.exchange_type != event.exchange_type {
                    return Err(format!(
                        "exchange `{}` has another type in family `{}`",
                        event.exchange, family.name
                    ));
                }
                if other.exchange != event.exchange && overlap(event, other) {
                    return Err(format!(
                        "key `{}` could also be one of `{}`, family `{}`, from exchange `{}`",
                        event.key.as_str(),
                        other.key.as_str(),
                        family.name,
                        other.exchange
                    ));
                }
            }
        }
        Ok(())
    }
}

/// A binding whose form several events have is a binding to all of them, so no event may be of two kinds.
fn check_against_family(event: &Event, family: &Family) -> Result<(), String> {
    let shares_form = |other: &Event| {
        let texts = |event: &Event| -> Vec<String> {
            event.form.iter().map(|form| form.binding.as_str().to_owned()).collect()
        };
        texts(event).iter().any(|text| texts(other).contains(text))
    };
    let conflict = family
        .event
        .iter()
        .find(|other| !std::ptr::eq(*other, event) && overlap(event, other) && shares_form(other));
    match conflict {
        Some(other) => Err(format!(
            "events `{}` and `{}` have the same form, and a key could be of both",
            event.key.as_str(),
            other.key.as_str()
        )),
        None => Ok(()),
    }
}

/// Checks that words can occur in a routing key.
fn check_words(parameter: &str, values: &[String]) -> Result<(), String> {
    let is_plain = |value: &String| {
        let template = Template::try_from(value.clone());
        template.is_ok_and(|template| matches!(template.parts(), [Part::Literal(_)]))
    };
    match values.iter().find(|value| !is_plain(value)) {
        Some(value) => Err(format!("`{value}` in `values.{parameter}` is not a plain word")),
        None => Ok(()),
    }
}

fn overlap(one: &Event, other: &Event) -> bool {
    let words = |event: &Event, part: &Part| -> Option<Vec<String>> {
        match part {
            Part::Literal(word) => Some(vec![word.clone()]),
            Part::Parameter(name) => event.values.get(name).cloned(),
        }
    };
    one.key.parts().len() == other.key.parts().len()
        && one.key.parts().iter().zip(other.key.parts()).all(|(part, opposite)| {
            match (words(one, part), words(other, opposite)) {
                (Some(mine), Some(theirs)) => mine.iter().any(|word| theirs.contains(word)),
                _ => true,
            }
        })
}

impl Event {
    fn check(&self) -> Result<(), String> {
        if self.exchange.is_empty() || self.exchange.len() > MAX_KEY_BYTES {
            return Err(format!("`exchange` must have 1 to {MAX_KEY_BYTES} bytes"));
        }
        self.check_patterns()?;
        // The first word separates the families of a tenant, so it must not match any word.
        if let Some(Part::Parameter(name)) = self.key.parts().first()
            && !self.values.contains_key(name)
        {
            return Err(format!("the first word `{{{name}}}` needs a list of values"));
        }
        for (parameter, values) in &self.values {
            self.has_parameter(parameter)?;
            if values.is_empty() {
                return Err(format!("`values.{parameter}` is empty"));
            }
            check_words(parameter, values)?;
        }
        for source in &self.tenant {
            self.check_source("tenant", source.key.as_ref(), source.body.as_ref())?;
            if source.kind == TenantKind::Database && source.body.is_some() {
                return Err("a tenant with `as = \"database\"` must come from the key".into());
            }
        }
        for source in &self.owner {
            self.check_source("owner", source.key.as_ref(), source.body.as_ref())?;
        }
        for name in self.shown.iter().flat_map(Template::parameters).filter(|name| *name != ACCOUNT) {
            self.has_parameter(name)?;
        }
        if let Some(dialled) = &self.dialled {
            dialled.check(self).map_err(|reason| format!("dialled: {reason}"))?;
        }
        for things in &self.state {
            things.check(self).map_err(|reason| format!("state: {reason}"))?;
        }
        for form in &self.form {
            self.check_form(form).map_err(|reason| format!("form `{}`: {reason}", form.binding.as_str()))?;
        }
        Ok(())
    }

    /// Each combination of listed values is a binding of amqp-ingest's queue.
    fn check_patterns(&self) -> Result<(), String> {
        let (mut patterns, mut bytes) = (1_usize, self.key.parts().len().saturating_sub(1));
        for part in self.key.parts() {
            let values = match part {
                Part::Literal(word) => std::slice::from_ref(word),
                Part::Parameter(name) => self.values.get(name).map_or(&[][..], Vec::as_slice),
            };
            patterns = patterns.saturating_mul(values.len().max(1));
            bytes += values.iter().map(String::len).max().unwrap_or(1);
        }
        if patterns > MAX_PATTERNS {
            return Err(format!("`values` has {patterns} combinations, more than {MAX_PATTERNS}"));
        }
        if bytes > MAX_KEY_BYTES {
            return Err(format!("its longest binding has {bytes} bytes, more than {MAX_KEY_BYTES}"));
        }
        Ok(())
    }

    /// Checks where a tenant or owner is found.
    fn check_source(&self, what: &str, key: Option<&String>, body: Option<&String>) -> Result<(), String> {
        let article = if what == "owner" { "an" } else { "a" };
        match (key, body) {
            (Some(parameter), None) => self.has_parameter(parameter),
            (None, Some(path)) if path.split('.').all(|member| !member.is_empty()) => Ok(()),
            (None, Some(path)) => Err(format!("{what}: `{path}` has an empty member name")),
            _ => Err(format!("{article} {what} is either `key` (a parameter) or `body` (a member)")),
        }
    }

    fn check_form(&self, form: &Form) -> Result<(), String> {
        for name in form.binding.parameters() {
            self.has_parameter(name)?;
            if name == ACCOUNT {
                return Err("`{account}` comes from the request, not from the binding".into());
            }
        }
        let in_form = |name: &String| form.binding.parameters().any(|parameter| parameter == name);
        if let Some(name) =
            form.required.keys().chain(form.required_unless_superduper.keys()).find(|name| !in_form(name))
        {
            return Err(format!("`{name}` is required, but the binding has no such parameter"));
        }
        for (name, values) in &form.values {
            check_words(name, values)?;
        }
        let named = form.wildcards.iter().chain(form.values.keys()).chain(form.not_values.keys());
        if let Some(name) = named.chain(form.unsupported.keys()).find(|name| !in_form(name)) {
            return Err(format!("the binding has no parameter `{name}`"));
        }
        let listed = form.not_values.values().chain(form.unsupported.keys());
        if let Some(name) = listed.into_iter().find(|name| !form.values.contains_key(*name)) {
            return Err(format!("`{name}` needs a list of values in the form"));
        }
        for (name, value) in &form.fixed {
            self.has_parameter(name)?;
            if in_form(name) {
                return Err(format!("`{name}` is fixed, so the binding must not have it as a parameter"));
            }
            if !self.allows(name, value) {
                return Err(format!("`{name}` is fixed to `{value}`, which is not among its values"));
            }
        }
        if let Some(name) = &form.token_id {
            self.has_parameter(name)?;
            if in_form(name) || form.fixed.contains_key(name) || name == ACCOUNT {
                return Err(format!("`{name}` is the token's id, so nothing else may set it"));
            }
        }
        Ok(())
    }

    fn has_parameter(&self, name: &str) -> Result<(), String> {
        match self.key.position(name) {
            Some(_) => Ok(()),
            None => Err(format!("`{name}` is no parameter of the key")),
        }
    }
}

fn parse(file: &str, text: &str) -> Result<File, CatalogueError> {
    toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            text.get(..span.start).unwrap_or(text).bytes().filter(|b| *b == b'\n').count() + 1
        });
        // The TOML error has several lines with an excerpt; naming the family is more useful.
        let family = error
            .span()
            .and_then(|span| text.get(..span.start))
            .and_then(|before| before.lines().rev().find_map(|line| line.trim().strip_prefix("name = ")))
            .map(|name| format!(" (in or after family {name})"))
            .unwrap_or_default();
        CatalogueError::Malformed {
            file: file.to_owned(),
            reason: format!("line {line}{family}: {}", error.message().replace('\n', " ")),
        }
    })
}

fn invalid(family: &str, reason: &str) -> CatalogueError {
    CatalogueError::Family { family: family.to_owned(), reason: reason.to_owned() }
}
