//! Bindings as regular expressions.

use blackhole_common::catalogue::{Catalogue, Event, Form, Part, Template};
use serde_json::{Value, json};

use super::with;

/// Any word but `#`.
const WORD: &str = "([^.#]|#[^.])[^.]*";

/// The schema of a binding: one of the catalogue's forms.
pub(super) fn schema(catalogue: &Catalogue) -> Value {
    let events = catalogue.families().iter().flat_map(|family| &family.event);
    let mut forms: Vec<Value> = Vec::new();
    for (event, form) in events.flat_map(|event| event.form.iter().map(move |form| (event, form))) {
        let title = form.binding.as_str();
        // Several kinds of events may have the same form.
        if forms.iter().any(|other| other.get("title").is_some_and(|other| other == title)) {
            continue;
        }
        let one = json!({ "title": title, "pattern": format!("^{}$", pattern(event, form)) });
        forms.push(match &form.about {
            Some(about) => with(one, json!({ "description": about })),
            None => one,
        });
    }
    json!({
        "description": "Which events are wanted: words separated by dots. `*` stands for any word, `#` as the last one for all remaining parameters.",
        "type": "string",
        "maxLength": 255,
        "anyOf": forms,
    })
}

/// What a binding of this form looks like. Which words a parameter may have is said by `GET /bindings`.
fn pattern(event: &Event, form: &Form) -> String {
    // From the end: `#` may stand for all that follows, if that has no fixed words.
    let mut rest = "(\\.#)?".to_owned();
    let mut only_parameters = true;
    for (index, part) in form.binding.parts().iter().enumerate().rev() {
        let word = match part {
            Part::Literal(word) => word.replace('.', "\\."),
            Part::Parameter(name) if index == 0 => {
                words(form.values.get(name).or_else(|| event.values.get(name)))
            }
            Part::Parameter(_) => WORD.to_owned(),
        };
        only_parameters &= matches!(part, Part::Parameter(_));
        let own = format!("{word}{rest}");
        rest = match (index, only_parameters) {
            (0, _) => own,
            (_, true) => format!("\\.(#|{own})"),
            (_, false) => format!("\\.{own}"),
        };
    }
    rest
}

/// The words of a list.
fn words(values: Option<&Vec<String>>) -> String {
    values.map_or_else(|| WORD.to_owned(), |values| format!("({})", values.join("|")))
}

/// What the routing keys of an event look like, as clients see them.
pub(super) fn key_pattern(event: &Event) -> String {
    let word = |part: &Part| match part {
        Part::Literal(word) => word.clone(),
        Part::Parameter(name) if event.values.contains_key(name) => words(event.values.get(name)),
        Part::Parameter(_) => "[^.]*".to_owned(),
    };
    let key: &Template = event.shown_key();
    format!("^{}$", key.parts().iter().map(word).collect::<Vec<_>>().join("\\."))
}
