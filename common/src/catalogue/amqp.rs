//! The AMQP exchanges and bindings that follow from the catalogue.

use super::{Catalogue, Event, ExchangeType, Part};

/// A binding of amqp-ingest's queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AmqpBinding {
    /// The exchange to bind to.
    pub exchange: String,
    /// The routing key pattern.
    pub pattern: String,
}

impl Catalogue {
    /// The exchanges to declare, with their types, without duplicates.
    pub fn exchanges(&self) -> Vec<(&str, ExchangeType)> {
        let mut exchanges: Vec<(&str, ExchangeType)> = Vec::new();
        for event in self.families.iter().flat_map(|family| &family.event) {
            if !exchanges.iter().any(|(name, _)| *name == event.exchange) {
                exchanges.push((&event.exchange, event.exchange_type));
            }
        }
        exchanges
    }

    /// The bindings that match exactly the events of the catalogue, sorted, without duplicates.
    pub fn amqp_bindings(&self) -> Vec<AmqpBinding> {
        let mut bindings: Vec<AmqpBinding> = self
            .families
            .iter()
            .flat_map(|family| &family.event)
            .flat_map(|event| {
                event
                    .amqp_patterns()
                    .into_iter()
                    .map(|pattern| AmqpBinding { exchange: event.exchange.clone(), pattern })
            })
            .collect();
        bindings.sort();
        bindings.dedup();
        bindings
    }
}

impl Event {
    /// One pattern per combination of listed values, so that the broker sends no other events.
    pub(super) fn amqp_patterns(&self) -> Vec<String> {
        let mut patterns = vec![String::new()];
        for (index, part) in self.key.parts().iter().enumerate() {
            let any = ["*".to_owned()];
            let words = match part {
                Part::Literal(literal) => std::slice::from_ref(literal),
                Part::Parameter(name) => self.values.get(name).map_or(any.as_slice(), Vec::as_slice),
            };
            let dot = if index > 0 { "." } else { "" };
            patterns = patterns
                .iter()
                .flat_map(|pattern| words.iter().map(move |word| format!("{pattern}{dot}{word}")))
                .collect();
        }
        patterns
    }
}
