//! The switch that stops the events of one binding family.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether a family is stopped, shared by all its bindings. A new switch is running.
#[derive(Clone, Debug, Default)]
pub struct FamilySwitch {
    stopped: Arc<AtomicBool>,
}

impl FamilySwitch {
    /// Whether the family is not stopped.
    pub fn is_running(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Starts or stops the family. Returns whether that changed anything.
    pub(crate) fn set_running(&self, running: bool) -> bool {
        self.stopped.swap(!running, Ordering::Relaxed) == running
    }
}

/// A switch is part of a frame template, but does not distinguish templates.
impl PartialEq for FamilySwitch {
    fn eq(&self, _: &FamilySwitch) -> bool {
        true
    }
}

impl Eq for FamilySwitch {}

impl Hash for FamilySwitch {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}
