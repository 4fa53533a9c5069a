//! Which binding families run. An operator, or KAZOO (`ws.module_req`), stops and starts them at runtime.
//!
//! A stopped family accepts no bindings, and its existing bindings get no events. Once it is started again, they go on
//! with new events: events that passed meanwhile are not delivered later.

pub(crate) mod stored;

use std::sync::Arc;

use blackhole_common::catalogue::Catalogue;
use thiserror::Error;

use crate::{delivery::family_switch::FamilySwitch, metrics::Metrics};

/// The switches of all families.
#[derive(Debug)]
pub struct Families {
    switches: Box<[(Box<str>, FamilySwitch)]>,
    metrics: Arc<Metrics>,
}

/// No family has this name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("there is no family {name}; there are {known}")]
pub(crate) struct UnknownFamily {
    name: String,
    known: String,
}

impl Families {
    /// All families of the catalogue, running.
    pub fn new(catalogue: &Catalogue, metrics: Arc<Metrics>) -> Families {
        let switches =
            catalogue.families().iter().map(|family| (family.name.as_str().into(), FamilySwitch::default()));
        Families { switches: switches.collect(), metrics }
    }

    /// The family's switch.
    pub(crate) fn switch(&self, name: &str) -> Option<&FamilySwitch> {
        self.switches.iter().find(|(own, _)| **own == *name).map(|(_, switch)| switch)
    }

    /// Whether the family runs.
    pub(crate) fn is_running(&self, name: &str) -> bool {
        self.switch(name).is_some_and(FamilySwitch::is_running)
    }

    /// Starts or stops the family.
    ///
    /// # Errors
    /// If no family has this name.
    pub(crate) fn set(&self, name: &str, running: bool) -> Result<(), UnknownFamily> {
        let Some(switch) = self.switch(name) else {
            let known: Vec<&str> = self.switches.iter().map(|(name, _)| &**name).collect();
            return Err(UnknownFamily { name: name.chars().take(64).collect(), known: known.join(", ") });
        };
        if switch.set_running(running) {
            tracing::info!(family = name, running, "family switched");
        }
        let stopped = self.switches.iter().filter(|(_, switch)| !switch.is_running()).count();
        self.metrics.families_stopped.set(i64::try_from(stopped).unwrap_or(i64::MAX));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use blackhole_common::wire::Bearer;

    use crate::access::{
        binding::{BindingError, parse},
        families::*,
    };

    #[test]
    fn a_family_is_stopped_and_started_by_name() {
        let metrics = Arc::new(Metrics::default());
        let families = Families::new(&Catalogue::load(None).unwrap(), Arc::clone(&metrics));
        let switch = families.switch("call").unwrap().clone();
        assert!(switch.is_running());
        families.set("call", false).unwrap();
        assert!(!switch.is_running() && !families.is_running("call") && families.is_running("conference"));
        assert_eq!(metrics.families_stopped.get(), 1);
        families.set("call", true).unwrap();
        assert!(switch.is_running());
        assert_eq!(metrics.families_stopped.get(), 0);

        let unknown = families.set("calls", false).unwrap_err().to_string();
        assert!(unknown.starts_with("there is no family calls; there are call, "), "{unknown}");
        assert!(!families.is_running("calls"));
    }

    #[test]
    fn a_stopped_family_refuses_all_bindings() {
        let catalogue = Catalogue::load(None).unwrap();
        let families = Families::new(&catalogue, Arc::default());
        let bearer =
            Bearer { account_id: "a".into(), expires_at: 9, superduper_admin: false, token_id: None };
        let refused = |binding: &str| parse(&catalogue, &families, binding, &bearer).err();
        families.set("call", false).unwrap();
        for binding in ["call.*.*", "call.CHANNEL_DANCE.*", "call", "call.#.x"] {
            assert_eq!(refused(binding), Some(BindingError::NoFamily), "{binding}");
        }
        assert_eq!(refused("fax.status.*"), None);
        families.set("call", true).unwrap();
        assert_eq!(refused("call.*.*"), None);
    }
}
