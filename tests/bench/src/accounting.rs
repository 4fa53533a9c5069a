//! Figures from the operating system: CPU time and memory of processes, the kernel's socket memory, steal time.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// Clock ticks per second in `/proc` (USER_HZ), the same on every Linux.
const TICKS: f64 = 100.0;
const PAGE_KIB: f64 = 4.0;

/// CPU seconds that the processes of a group have used, all threads together.
///
/// Every program started here leads its own process group, which includes for example nginx's workers. The CPU clock of
/// a process counts nanoseconds; `/proc` counts in steps of 10 ms, too coarse for short runs.
pub(crate) fn cpu_seconds(group: i32) -> f64 {
    let used = |pid| {
        let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok()?;
        Some(Duration::from(clock_gettime(clock).ok()?).as_secs_f64())
    };
    pids_of(group).filter_map(used).sum()
}

/// Resident memory of a group in KiB (Rss), and the anonymous part of it.
///
/// Not Pss: a process's share of its program's pages shrinks whenever another process of the same program starts.
pub(crate) fn memory_kib(group: i32) -> (f64, f64) {
    let mut memory = (0.0, 0.0);
    for pid in pids_of(group) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        memory.0 += field(&text, "Rss:");
        memory.1 += field(&text, "Anonymous:");
    }
    memory
}

/// Kernel memory in KiB that grows with TCP sockets, of both ends of each connection: socket buffers, and small objects
/// (sockets, files, epoll entries), which include those of all other processes.
pub(crate) fn socket_memory_kib() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_once(" mem ").and_then(|(_, pages)| pages.trim().parse::<f64>().ok());
    let small = field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "Slab:");
    pages.unwrap_or(0.0) * PAGE_KIB + small
}

/// CPU time of the machine since it started, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Time that the host gave to other guests.
    pub(crate) stolen: f64,
    /// Time spent working.
    pub(crate) busy: f64,
    /// Total time.
    pub(crate) total: f64,
}

impl Machine {
    /// The current values.
    pub(crate) fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = text.lines().next().unwrap_or_default();
        let fields = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse::<f64>().ok());
        let seconds: Vec<f64> = fields.map(|ticks| ticks / TICKS).collect();
        let total: f64 = seconds.iter().sum();
        let of = |place: usize| seconds.get(place).copied().unwrap_or(0.0);
        // user nice system idle iowait irq softirq steal
        Self { stolen: of(7), busy: total - of(3) - of(4) - of(7), total }
    }

    /// The difference to earlier values.
    pub(crate) fn since(self, earlier: Self) -> Self {
        let (stolen, busy) = (self.stolen - earlier.stolen, self.busy - earlier.busy);
        Self { stolen, busy, total: (self.total - earlier.total).max(f64::MIN_POSITIVE) }
    }
}

/// Raises the limit of open files for this process and its children to the maximum.
pub(crate) fn raise_file_limit() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, max) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, max, max).context("cannot raise the limit of open files")?;
    Ok(max)
}

/// The processes of a group, including its leader.
fn pids_of(group: i32) -> impl Iterator<Item = i32> {
    pids().filter(move |pid| group_of(*pid) == Some(group))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` after the name of the process are state, parent id, group id, ...
fn group_of(pid: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(2)?.parse().ok()
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_time_and_memory_of_this_process_are_counted() {
        let group = nix::unistd::getpgrp().as_raw();
        let own = || Duration::from(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap()).as_secs_f64();
        let (machine, before, began) = (Machine::now(), cpu_seconds(group), own());
        while own() < began + 0.2 {}
        assert!(cpu_seconds(group) >= before + 0.2);
        // The kernel counts the machine's time in ticks.
        assert!(Machine::now().since(machine).busy > 0.1);
        let (resident, anonymous) = memory_kib(group);
        assert!(anonymous > 100.0 && resident > anonymous, "{resident} {anonymous}");
    }
}
