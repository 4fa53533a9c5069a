//! What the operating system says: processor time and memory of processes, the kernel's socket memory, stolen time.

use std::fs;

use anyhow::{Context, Result};

/// Clock ticks per second in `/proc` (USER_HZ), the same on every Linux.
const TICKS: f64 = 100.0;
const PAGE_KIB: f64 = 4.0;

/// Seconds of processor time that a process and all others of its group have used, with their children that ended.
///
/// Every program that is started here leads a group of its own, and nginx's workers, for example, are in it.
pub(crate) fn cpu_seconds(group: i32) -> f64 {
    members(group).map(|fields| fields.iter().skip(10).take(2).sum::<f64>() / TICKS).sum()
}

/// Resident memory of a group in KiB: private pages and its share of shared ones (Pss), and of these the anonymous.
pub(crate) fn memory_kib(group: i32) -> (f64, f64) {
    let mut memory = (0.0, 0.0);
    for pid in pids_of(group) {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        memory.0 += field(&text, "Pss:");
        memory.1 += field(&text, "Anonymous:");
    }
    memory
}

/// The kernel's memory for TCP sockets in KiB, of both ends, as all of them are on this machine.
pub(crate) fn socket_memory_kib() -> f64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_once(" mem ").and_then(|(_, pages)| pages.trim().parse::<f64>().ok());
    pages.unwrap_or(0.0) * PAGE_KIB
}

/// Seconds that the host took from this machine, and seconds that all its processors were there, since it started.
pub(crate) fn stolen_seconds() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let stolen = fields.get(7).copied().unwrap_or(0.0);
    (stolen / TICKS, fields.iter().take(8).sum::<f64>() / TICKS)
}

/// Raises the number of files that this process and those that it starts may open as far as it goes.
pub(crate) fn raise_file_limit() -> Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot raise the number of open files")?;
    Ok(most)
}

/// The numeric fields of `/proc/PID/stat` after the process's name and state, for each process of a group.
fn members(group: i32) -> impl Iterator<Item = Vec<f64>> {
    pids().filter_map(move |pid| stat(pid).filter(|fields| fields.get(1) == Some(&f64::from(group))))
}

fn pids_of(group: i32) -> impl Iterator<Item = i32> {
    pids().filter(move |pid| stat(*pid).is_some_and(|fields| fields.get(1) == Some(&f64::from(group))))
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// From the parent's id on: `ppid pgrp ... utime stime ...`, the latter at 10 and 11, counted from 0.
fn stat(pid: i32) -> Option<Vec<f64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let rest = rest.trim_start().split_once(' ')?.1;
    Some(rest.split_whitespace().filter_map(|field| field.parse().ok()).collect())
}

fn field(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let group = nix::unistd::getpgrp().as_raw();
        let before = cpu_seconds(group);
        let until = std::time::Instant::now() + std::time::Duration::from_millis(200);
        while std::time::Instant::now() < until {}
        assert!(cpu_seconds(group) > before + 0.05);
        assert!(memory_kib(group).0 > 100.0);
        assert!(stolen_seconds().1 > 1.0);
    }
}
