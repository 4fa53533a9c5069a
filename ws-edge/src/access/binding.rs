//! Turns a client's binding into NATS subjects: parses it against the catalogue, then resolves it below the tenants that
//! auth-svc granted. Every subject begins with a granted tenant, whatever the binding's words are.

mod encoding;
mod error;

use std::collections::BTreeMap;

use blackhole_common::{
    catalogue::{ACCOUNT, Catalogue, Event, Family, Form, Part, TenantKind},
    owner::Own,
    subject::{SubjectError, Word, pattern_subjects},
    tenant::Tenant,
    wire::{Access, Bearer},
};

use crate::{
    access::families::Families,
    delivery::{
        family_switch::FamilySwitch,
        frame::shown_key::{ShownKey, shown_pattern},
    },
};
use encoding::{encoded, key_word};
pub use error::BindingError;
use error::MAX_BINDING_BYTES;

/// A binding of the catalogue, with the client's words.
#[derive(Debug)]
pub struct ParsedBinding<'a> {
    /// What it matches: of several kinds of events if they have the same form, at least one.
    kinds: Vec<KindOfEvent<'a>>,
    family: &'a str,
    switch: FamilySwitch,
}

/// A kind of events that a binding matches.
#[derive(Debug)]
struct KindOfEvent<'a> {
    family: &'a str,
    event: &'a Event,
    /// The words of the key's parameters; a parameter that is not here matches any word.
    words: BTreeMap<&'a str, Word>,
}

/// The subjects of a binding's events, and how clients see their keys.
#[derive(Debug, PartialEq, Eq)]
pub struct ResolvedBinding {
    /// The NATS subjects; an event matches at most one.
    pub subjects: Vec<String>,
    /// The AMQP pattern that clients see.
    pub(crate) subscription_key: String,
    /// How clients see routing keys.
    pub(crate) shown_key: ShownKey,
    /// The only events that the session may have, if it is restricted to one user's.
    pub(crate) only: Option<Own>,
}

/// Finds the catalogue's form of a client's binding, and checks its words against the form and the token.
///
/// # Errors
/// The reply's text.
pub fn parse<'a>(
    catalogue: &'a Catalogue,
    families: &Families,
    binding: &str,
    bearer: &Bearer,
) -> Result<ParsedBinding<'a>, BindingError> {
    if binding.len() > MAX_BINDING_BYTES {
        return Err(BindingError::TooLong);
    }
    let words: Vec<&str> = binding.split('.').collect();
    let running = catalogue.families().iter().filter(|family| families.is_running(&family.name));
    let forms = running.flat_map(|family| {
        family.event.iter().flat_map(move |event| event.form.iter().map(move |form| (family, event, form)))
    });
    let mut candidate: Option<&Family> = None;
    let mut found: Option<(&Family, &Form)> = None;
    let mut kinds = Vec::new();
    for (family, event, form) in forms {
        let is_other =
            |(of, first): (&Family, &Form)| of.name != family.name || first.binding != form.binding;
        if found.is_some_and(is_other)
            || !can_begin_with(event, form, words.first().copied().unwrap_or_default())
        {
            continue;
        }
        candidate = candidate.or(Some(family));
        if let Some(words) = match_form(form, &words) {
            found = Some((family, form));
            let words = check_words(event, form, words, bearer)?;
            kinds.push(KindOfEvent { family: &family.name, event, words });
        }
    }
    if let Some((family, _)) = found {
        let switch = families.switch(&family.name).cloned().unwrap_or_default();
        return Ok(ParsedBinding { kinds, family: &family.name, switch });
    }
    let family = candidate.ok_or(BindingError::NoFamily)?;
    if words.iter().rev().skip(1).any(|&word| word == "#") {
        return Err(SubjectError::RestNotLast.into());
    }
    Err(BindingError::Format { family: family.name.clone(), binding: binding.to_owned() })
}

/// Whether bindings of this form can begin with `word`.
fn can_begin_with(event: &Event, form: &Form, word: &str) -> bool {
    match form.binding.parts().first() {
        Some(Part::Literal(literal)) => literal == word,
        Some(Part::Parameter(name)) => event.values.contains_key(name) && event.allows(name, word),
        None => false,
    }
}

/// The words of the form's parameters, if the binding has this form.
fn match_form<'a>(form: &'a Form, words: &[&str]) -> Option<BTreeMap<&'a str, Word>> {
    let mut matched = BTreeMap::new();
    let mut words = words.iter().copied().peekable();
    let mut rest = false;
    for part in form.binding.parts() {
        if words.peek() == Some(&"#") {
            rest = true;
        }
        match part {
            // `#` stands for parameters, not for literals.
            Part::Literal(literal) => {
                if rest || words.next() != Some(literal) {
                    return None;
                }
            }
            Part::Parameter(name) => {
                let word = if rest {
                    Word::Rest
                } else {
                    match words.next()? {
                        "*" => Word::Any,
                        "" => return None,
                        word if word.chars().any(char::is_control) => return None,
                        word => Word::Exactly(word.to_owned()),
                    }
                };
                matched.insert(name.as_str(), word);
            }
        }
    }
    if rest {
        words.next();
    }
    (words.next().is_none() && is_of_form(form, &matched)).then_some(matched)
}

/// Whether the words are those of this form, and not of another that has as many.
fn is_of_form(form: &Form, words: &BTreeMap<&str, Word>) -> bool {
    let is_listed =
        |list: &String, text: &String| form.values.get(list).is_some_and(|values| values.contains(text));
    form.wildcards.iter().all(|name| words.get(name.as_str()) == Some(&Word::Any))
        && form.not_values.iter().all(|(name, list)| {
            matches!(words.get(name.as_str()), Some(Word::Exactly(text)) if !is_listed(list, text))
        })
}

fn check_words<'a>(
    event: &Event,
    form: &'a Form,
    mut words: BTreeMap<&'a str, Word>,
    bearer: &Bearer,
) -> Result<BTreeMap<&'a str, Word>, BindingError> {
    for (name, word) in &mut words {
        let required = form.required.get(*name);
        let required = required
            .or_else(|| form.required_unless_superduper.get(*name).filter(|_| !bearer.superduper_admin));
        match word {
            Word::Exactly(text) if form.values.get(*name).is_some_and(|values| !values.contains(text)) => {
                return Err(match form.unsupported.get(*name) {
                    Some(beginning) => {
                        BindingError::Unsupported { text: beginning.clone(), value: text.clone() }
                    }
                    None => BindingError::Value { parameter: (*name).to_owned(), value: text.clone() },
                });
            }
            Word::Exactly(text) if event.values.contains_key(*name) => {
                if !event.allows(name, text) {
                    return Err(BindingError::Value { parameter: (*name).to_owned(), value: text.clone() });
                }
            }
            Word::Exactly(text) => *text = key_word(text),
            Word::Any | Word::Rest => {
                if let Some(text) = required {
                    return Err(BindingError::Required(text.clone()));
                }
            }
        }
    }
    for (name, value) in &form.fixed {
        words.insert(name, Word::Exactly(value.clone()));
    }
    if let Some(name) = &form.token_id {
        let id = bearer.token_id.as_deref().ok_or(BindingError::NoTokenId)?;
        words.insert(name, Word::Exactly(encoded(id)));
    }
    Ok(words)
}

impl ParsedBinding<'_> {
    /// The switch of the binding's family.
    pub(crate) fn family(&self) -> &FamilySwitch {
        &self.switch
    }

    /// The name of its family, if something is kept of its events.
    pub(crate) fn family_with_state(&self) -> Option<&str> {
        self.kinds.iter().any(|kind| !kind.event.state.is_empty()).then_some(self.family)
    }

    /// The binding's subjects below `event_root` and the tenants of `access`.
    ///
    /// # Errors
    /// If it has no subject.
    pub fn resolve(&self, event_root: &str, access: &Access) -> Result<ResolvedBinding, BindingError> {
        let mut resolved: Option<ResolvedBinding> = None;
        for kind in &self.kinds {
            let more = kind.resolve(event_root, access)?;
            match &mut resolved {
                Some(resolved) => resolved.subjects.extend(more.subjects),
                None => resolved = Some(more),
            }
        }
        resolved.ok_or(BindingError::NoFamily)
    }
}

impl KindOfEvent<'_> {
    fn resolve(&self, event_root: &str, access: &Access) -> Result<ResolvedBinding, BindingError> {
        let (account, roots) = self.roots(event_root, access)?;
        self.check_databases(account)?;
        let mut subjects = Vec::new();
        for words in self.key_words(account) {
            for root in &roots {
                subjects.extend(pattern_subjects(root, &words)?);
            }
        }
        let subscription_key = shown_pattern(self.event.shown_key(), account.unwrap_or("*"), |name| {
            self.words
                .get(name)
                .map(|word| if *word == Word::Rest { "*".to_owned() } else { word.as_amqp().to_owned() })
        });
        let shown_key = ShownKey::of(self.event, account);
        Ok(ResolvedBinding { subjects, subscription_key, shown_key, only: self.only(access)? })
    }

    /// The user's own events, if `access` is to those only.
    fn only(&self, access: &Access) -> Result<Option<Own>, BindingError> {
        match access.own() {
            Some(_) if self.event.owner.is_empty() => {
                Err(BindingError::NoOwner { family: self.family.to_owned() })
            }
            own => Ok(own.cloned()),
        }
    }

    /// An event of a database that is not the account's is never below its tenant.
    fn check_databases(&self, account: Option<&str>) -> Result<(), BindingError> {
        let Some(account) = account else { return Ok(()) };
        let databases = self.event.tenant.iter().filter(|source| source.kind == TenantKind::Database);
        for name in databases.filter_map(|source| source.key.as_deref()) {
            if let Some(Word::Exactly(database)) = self.words.get(name)
                && Tenant::of_database(database) != Tenant::account(account)
            {
                return Err(BindingError::OtherDatabase);
            }
        }
        Ok(())
    }

    /// The account, unless `access` is to all, and the subjects above its events.
    fn roots<'b>(
        &self,
        event_root: &str,
        access: &'b Access,
    ) -> Result<(Option<&'b str>, Vec<String>), BindingError> {
        match access {
            Access::Denied { .. } => Err(BindingError::NoFamily),
            Access::All => Ok((None, vec![format!("{event_root}.*")])),
            Access::Account { account_id, realm, .. } | Access::Own { account_id, realm, .. } => {
                let has_tenant = |kinds: [TenantKind; 2]| {
                    self.event.tenant.iter().any(|source| kinds.contains(&source.kind))
                };
                let mut tenants = Vec::new();
                if has_tenant([TenantKind::Account, TenantKind::Database]) {
                    tenants.push(Tenant::account(account_id));
                }
                if has_tenant([TenantKind::Realm, TenantKind::Address])
                    && let Some(realm) = realm
                {
                    tenants.push(Tenant::realm(realm));
                }
                // An empty id or realm would become `Nobody`, whose events are for superduper admins only.
                tenants.retain(|tenant| *tenant != Tenant::Nobody);
                if tenants.is_empty() {
                    return Err(if self.event.tenant.is_empty() {
                        BindingError::NoFamily
                    } else {
                        BindingError::NoRealm
                    });
                }
                let roots = tenants.iter().map(|tenant| format!("{event_root}.{tenant}")).collect();
                Ok((Some(account_id), roots))
            }
        }
    }

    /// The key's words. If the first word is a wildcard with a list of values, one list of words for each value: a
    /// wildcard there would match other families' keys.
    fn key_words(&self, account: Option<&str>) -> Vec<Vec<Word>> {
        let mut words: Vec<Word> = self
            .event
            .key
            .parts()
            .iter()
            .map(|part| match part {
                Part::Literal(literal) => Word::Exactly(literal.clone()),
                Part::Parameter(name) => match self.words.get(name.as_str()) {
                    Some(word) => word.clone(),
                    None if name == ACCOUNT => account.map_or(Word::Any, |id| Word::Exactly(id.to_owned())),
                    None => Word::Any,
                },
            })
            .collect();
        // One `#` at the end covers all trailing parameters that it stands for; elsewhere it is one word.
        let tail = words.iter().rev().take_while(|word| **word == Word::Rest).count();
        words.truncate(words.len() - tail);
        for word in &mut words {
            if *word == Word::Rest {
                *word = Word::Any;
            }
        }
        if tail > 0 {
            words.push(Word::Rest);
        }
        let first = match self.event.key.parts().first() {
            Some(Part::Parameter(name)) => self.event.values.get(name),
            _ => None,
        };
        match (first, words.first()) {
            (Some(values), Some(Word::Any | Word::Rest)) => values
                .iter()
                .map(|value| {
                    let mut words = words.clone();
                    match words.first_mut() {
                        Some(word @ Word::Any) => *word = Word::Exactly(value.clone()),
                        _ => words.insert(0, Word::Exactly(value.clone())),
                    }
                    words
                })
                .collect(),
            _ => vec![words],
        }
    }
}

#[cfg(test)]
mod tests;
