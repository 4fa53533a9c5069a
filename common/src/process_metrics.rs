//! The metrics `process_…` that Prometheus' own libraries have: memory, CPU, file descriptors.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Unit,
};

/// The kernel counts a process' times in hundredths of a second (`USER_HZ`) on every architecture that it runs on here.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the kernel says of this process at the moment of a scrape. What it does not say is left out.
#[derive(Debug)]
pub(crate) struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stat = read("stat").unwrap_or_default();
        let cpu = field(&stat, 14).zip(field(&stat, 15)).map(|(user, system)| user + system);
        if let Some(ticks) = cpu {
            let help = "User and system CPU time spent";
            let unit = Some(&Unit::Seconds);
            let metric = encoder.encode_descriptor("process_cpu", help, unit, MetricType::Counter)?;
            ConstCounter::new(ticks / TICKS_PER_SECOND).encode(metric)?;
        }
        let status = read("status").unwrap_or_default();
        let limits = read("limits").unwrap_or_default();
        let kilobytes = |name: &str| Some(number_after(&status, name)? * 1024.0);
        let started = field(&stat, 22).zip(booted_at()).map(|(ticks, boot)| boot + ticks / TICKS_PER_SECOND);
        let gauges = [
            ("process_resident_memory", "Resident memory", Some(Unit::Bytes), kilobytes("VmRSS:")),
            ("process_virtual_memory", "Virtual memory", Some(Unit::Bytes), kilobytes("VmSize:")),
            ("process_start_time", "When the process started, in Unix time", Some(Unit::Seconds), started),
            ("process_threads", "Threads", None, number_after(&status, "Threads:")),
            ("process_open_fds", "Open file descriptors", None, open_files()),
            (
                "process_max_fds",
                "Open file descriptors allowed",
                None,
                number_after(&limits, "Max open files"),
            ),
        ];
        for (name, help, unit, value) in gauges {
            if let Some(value) = value {
                let metric = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric)?;
            }
        }
        Ok(())
    }
}

fn read(file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/self/{file}")).ok()
}

/// A field of `/proc/self/stat`, counted from 1. The second one, the name, may contain spaces.
fn field(stat: &str, number: usize) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first number after `name` at the beginning of a line.
fn number_after(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn booted_at() -> Option<f64> {
    number_after(&fs::read_to_string("/proc/stat").ok()?, "btime")
}

/// Newer kernels tell the number as the size of the directory. To count an edge's tens of thousands takes milliseconds.
fn open_files() -> Option<f64> {
    const DIRECTORY: &str = "/proc/self/fd";
    match fs::metadata(DIRECTORY).ok()?.len() {
        // One of them reads the directory.
        0 => Some(fs::read_dir(DIRECTORY).ok()?.count().saturating_sub(1) as f64),
        count => Some(count as f64),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn the_process_is_measured() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") > value("process_resident_memory_bytes"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(value("process_threads") >= 1.0);
        assert!((3.0..value("process_max_fds")).contains(&value("process_open_fds")), "{text}");
    }

    #[test]
    fn the_name_of_a_process_may_contain_anything() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 5 0 4200 1 2";
        assert_eq!(
            (field(stat, 14), field(stat, 15), field(stat, 22)),
            (Some(150.0), Some(50.0), Some(4200.0))
        );
        assert_eq!(field("", 14), None);
    }
}
