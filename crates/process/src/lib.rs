//! Metrics of this process and its build, under the names that dashboards expect of every program.
//!
//! The figures are read from `/proc` when the metrics are gathered. Where the system does not tell
//! a figure, it is 0. A process that is out of descriptors still has all figures.
//!
//! ```
//! let registry = prometheus::Registry::new();
//! palisade_process::register(&registry).unwrap();
//! let names: Vec<String> = registry.gather().iter().map(|one| one.name().to_owned()).collect();
//! assert!(names.contains(&"process_resident_memory_bytes".to_owned()));
//! ```

mod proc;

use proc::Sources;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Error, Gauge, IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::{Mutex, PoisonError};

/// Adds the metrics to a registry.
///
/// # Errors
/// If the registry has one of them already.
pub fn register(registry: &Registry) -> Result<(), Error> {
    let build = Opts::new("palisade_build_info", "Always 1. The label is the version that runs.");
    let build = IntGaugeVec::new(build, &["version"])?;
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build))?;
    registry.register(Box::new(Process::new()?))
}

/// The metrics of this process. Each collection reads the figures anew.
struct Process {
    sources: Sources,
    one_at_a_time: Mutex<()>,
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
    virtual_bytes: IntGauge,
    open_fds: IntGauge,
    max_fds: IntGauge,
    threads: IntGauge,
    start_seconds: Gauge,
}

impl Process {
    fn new() -> Result<Process, Error> {
        Ok(Process {
            sources: Sources::open(),
            one_at_a_time: Mutex::default(),
            cpu_seconds: Counter::new(
                "process_cpu_seconds_total",
                "Time of the processor that this process has used.",
            )?,
            resident_bytes: IntGauge::new("process_resident_memory_bytes", "Memory in use.")?,
            virtual_bytes: IntGauge::new("process_virtual_memory_bytes", "Memory with addresses.")?,
            open_fds: IntGauge::new("process_open_fds", "Open descriptors.")?,
            max_fds: IntGauge::new("process_max_fds", "Limit of open descriptors.")?,
            threads: IntGauge::new("process_threads", "Threads of the operating system.")?,
            start_seconds: Gauge::new(
                "process_start_time_seconds",
                "When this process started, in seconds since 1970.",
            )?,
        })
    }

    fn each(&self) -> [&dyn Collector; 7] {
        [
            &self.cpu_seconds,
            &self.resident_bytes,
            &self.virtual_bytes,
            &self.open_fds,
            &self.max_fds,
            &self.threads,
            &self.start_seconds,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.each().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Two collections at the same time would both add the same time of the processor.
        let _one = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        let figures = self.sources.read();
        let set =
            |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let more = figures.cpu_seconds - self.cpu_seconds.get();
        if more > 0.0 {
            self.cpu_seconds.inc_by(more);
        }
        set(&self.resident_bytes, figures.resident_bytes);
        set(&self.virtual_bytes, figures.virtual_bytes);
        set(&self.open_fds, figures.open_fds);
        set(&self.max_fds, figures.max_fds);
        set(&self.threads, figures.threads);
        self.start_seconds.set(figures.start_seconds);
        self.each().into_iter().flat_map(Collector::collect).collect()
    }
}
