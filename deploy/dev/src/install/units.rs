//! Keeps systemd from starting and enabling services of packages that are installed only for their programs.

use std::process::{Command, Stdio};

use crate::progress::say;

/// Units that are masked while packages are installed.
///
/// Debian starts a service when its package is installed, unless the unit is masked. Without systemd, `RUNLEVEL=1` in
/// the environment prevents that.
pub(super) struct MaskedUnits<'a> {
    units: Vec<&'a str>,
    sudo: bool,
}

impl<'a> MaskedUnits<'a> {
    /// Masks the units, except those that exist already: somebody uses these services.
    pub(super) fn new(units: &[&'a str], sudo: bool) -> Self {
        let systemd = std::path::Path::new("/run/systemd/system").is_dir();
        let mut units: Vec<&str> = if systemd { units.to_vec() } else { Vec::new() };
        units.sort_unstable();
        units.dedup();
        units.retain(|unit| !succeeds(Command::new("systemctl").args(["cat", unit])));
        let masked = Self { units, sudo };
        masked.systemctl(&["mask", "--runtime"]);
        masked
    }

    /// Unmasks the units, and disables new ones so that they do not start at the next boot.
    pub(super) fn release(self, installed: bool) {
        self.systemctl(&["unmask", "--runtime"]);
        if installed && !self.units.is_empty() && self.systemctl(&["disable", "--quiet"]) {
            say(format_args!("installed, but not enabled: {}", self.units.join(", ")));
        }
    }

    fn systemctl(&self, verb: &[&str]) -> bool {
        if self.units.is_empty() {
            return true;
        }
        let mut command = Command::new(if self.sudo { "sudo" } else { "systemctl" });
        if self.sudo {
            command.args(["-n", "systemctl"]);
        }
        let done = succeeds(command.args(verb).args(&self.units));
        if !done {
            let action = verb.first().copied().unwrap_or_default();
            say(format_args!("systemctl {action} failed; check the state of {}", self.units.join(", ")));
        }
        done
    }
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
