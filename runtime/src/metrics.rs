//! The registry that `/metrics` shows, and what every process says about itself.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry,
};

/// Metrics of a program: its own below the prefix `vc_`, those of the process under the usual names.
///
/// Components register while the program starts; after that the registry is shared with the server.
#[derive(Debug)]
pub struct Registry {
    all: registry::Registry,
}

/// The program that runs, as `vc_build_info` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// The program's name, such as `vc-syncer`.
    pub program: &'static str,
    /// `env!("CARGO_PKG_VERSION")` of the program.
    pub version: &'static str,
}

impl Registry {
    /// A registry with the metrics of the process and the build.
    pub fn new(build: Build) -> Self {
        let mut all = registry::Registry::default();
        all.register_collector(Box::new(ProcessCollector));
        let mut registry = Self { all };
        let labels = vec![("program", build.program), ("version", build.version)];
        registry.component().register("build", "The program that runs", Info::new(labels));
        registry
    }

    /// Where a component registers its metrics; puts `vc_` before their names.
    pub fn component(&mut self) -> &mut registry::Registry {
        self.all.sub_registry_with_prefix("vc")
    }

    /// All metrics in the `OpenMetrics` text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut body = String::new();
        text::encode(&mut body, &self.all)?;
        Ok(body)
    }
}

/// `Content-Type` of [`Registry::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/proc` says about a process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Process {
    cpu_seconds: f64,
    start_time_seconds: f64,
    resident_bytes: u64,
    resident_peak_bytes: u64,
    threads: u64,
    open_fds: u64,
}

/// `/proc` counts time in ticks of `USER_HZ`, which is part of the kernel's ABI: 100 on x86-64 and arm64.
const TICKS_PER_SECOND: f64 = 100.0;

impl Process {
    /// This process now; nothing where there is no `/proc`.
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let status = fs::read_to_string("/proc/self/status").ok()?;
        let kernel = fs::read_to_string("/proc/stat").ok()?;
        let open_fds = fs::read_dir("/proc/self/fd").ok()?.count();
        Self::parse(&stat, &status, &kernel, u64::try_from(open_fds).ok()?)
    }

    fn parse(stat: &str, status: &str, kernel: &str, open_fds: u64) -> Option<Self> {
        // The second field is the program's name in parentheses, which may itself hold any character.
        let (_, after_name) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // proc_pid_stat(5) counts from 1, and two fields stand before: utime is 14, stime 15, starttime 22.
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let boot: f64 = line(kernel, "btime")?.parse().ok()?;
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            start_time_seconds: boot + ticks(22)? / TICKS_PER_SECOND,
            resident_bytes: kib(line(status, "VmRSS:")?)?,
            resident_peak_bytes: kib(line(status, "VmHWM:")?)?,
            threads: line(status, "Threads:")?.parse().ok()?,
            open_fds,
        })
    }
}

/// What stands after `key` on its line.
fn line<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn kib(value: &str) -> Option<u64> {
    value.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Reads `/proc` whenever metrics are asked for.
#[derive(Debug)]
struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(process) = Process::read() else { return Ok(()) };
        let mut show = |name: &str, help: &str, metric: &dyn Shown| metric.show(&mut encoder, name, help);
        show("process_cpu_seconds", "Processor time used", &ConstCounter::new(process.cpu_seconds))?;
        show("process_start_time_seconds", "Start of the process", &ConstGauge::new(process.start_time_seconds))?;
        show("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(process.resident_bytes))?;
        show("process_resident_memory_peak_bytes", "Most it ever was", &ConstGauge::new(process.resident_peak_bytes))?;
        show("process_threads", "Threads", &ConstGauge::new(process.threads))?;
        show("process_open_fds", "Open file descriptors", &ConstGauge::new(process.open_fds))
    }
}

/// A metric that can be written under a name.
trait Shown {
    fn show(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> Result<(), std::fmt::Error>;
}

impl<M: EncodeMetric> Shown for M {
    fn show(&self, encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> Result<(), std::fmt::Error> {
        self.encode(encoder.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_proc_whatever_its_name() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194560 900 0 0 0 250 50 0 0 20 0 4 0 12345 1000000 700 18446744073709551615";
        let status = "Name:\ta\nVmHWM:\t   40960 kB\nVmRSS:\t   20480 kB\nThreads:\t4\n";
        let kernel = "cpu  1 2 3\nbtime 1700000000\nprocesses 5\n";
        let expected = Process {
            cpu_seconds: 3.0,
            start_time_seconds: 1_700_000_123.45,
            resident_bytes: 20 << 20,
            resident_peak_bytes: 40 << 20,
            threads: 4,
            open_fds: 9,
        };
        assert_eq!(Process::parse(stat, status, kernel, 9), Some(expected));
    }

    #[test]
    fn an_unknown_form_of_proc_gives_nothing() {
        assert_eq!(Process::parse("", "", "", 0), None);
        assert_eq!(Process::parse("1 (x) S 1", "VmRSS: lots", "btime soon", 0), None);
    }

    #[test]
    fn the_registry_shows_the_process_the_build_and_the_components() {
        let mut registry = Registry::new(Build { program: "vc-test", version: "1.2.3" });
        let gauge = prometheus_client::metrics::gauge::Gauge::<i64>::default();
        registry.component().register("things", "Things", gauge.clone());
        gauge.set(4);
        let body = registry.encode().unwrap();
        for line in ["vc_build_info{program=\"vc-test\",version=\"1.2.3\"} 1", "vc_things 4", "# EOF"] {
            assert!(body.lines().any(|found| found == line), "{line} in {body}");
        }
        for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "] {
            assert!(body.lines().any(|found| found.starts_with(name)), "{name} in {body}");
        }
    }
}
