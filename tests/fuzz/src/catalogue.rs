//! The catalogue file.

use blackhole_common::catalogue::Catalogue;

/// Whatever is accepted can be bound at the broker, and what the broker then sends is recognized.
pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let catalogue = match Catalogue::with("catalogue.toml", text) {
        Ok(catalogue) => catalogue,
        Err(error) => {
            assert!(!error.to_string().contains('\n'), "{error}");
            return false;
        }
    };
    for binding in catalogue.amqp_bindings() {
        assert!((1..=255).contains(&binding.exchange.len()), "{binding:?}");
        assert!((1..=255).contains(&binding.pattern.len()), "{binding:?}");
        let words: Vec<&str> =
            binding.pattern.split('.').map(|word| if word == "*" { "x" } else { word }).collect();
        let key = words.join(".");
        assert!(catalogue.event(&binding.exchange, &key).is_some(), "{binding:?}");
        let event = catalogue.event_by_key(&key).unwrap();
        assert_eq!(event.exchange, binding.exchange, "{key}");
    }
    catalogue.families().iter().any(|family| text.contains(&family.name))
}
