//! The resources that processes have used so far: processor time by kind of thread, and memory. The
//! figures come from `/proc`.
//!
//! The module knows nothing of the work of the processes.

use super::error::CalibrateError;
use std::{fs, io};

/// Processor time in microseconds by kind of thread, and the number of wake-ups of some kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    /// The async runtime, and all threads of no other kind.
    pub network_us: f64,
    /// How often these threads went to sleep.
    pub network_wakes: f64,
    /// Processor time of the shard threads.
    pub shards_us: f64,
    /// How often these threads went to sleep.
    pub shards_wakes: f64,
    /// Processor time of the log writer.
    pub writer_us: f64,
    /// RocksDB's own threads, and the heap's.
    pub background_us: f64,
}

impl Cpu {
    /// Processor time of all threads together.
    pub fn total_us(&self) -> f64 {
        self.network_us + self.shards_us + self.writer_us + self.background_us
    }

    /// The use since an earlier reading.
    pub fn since(&self, before: &Cpu) -> Cpu {
        Cpu {
            network_us: self.network_us - before.network_us,
            network_wakes: self.network_wakes - before.network_wakes,
            shards_us: self.shards_us - before.shards_us,
            shards_wakes: self.shards_wakes - before.shards_wakes,
            writer_us: self.writer_us - before.writer_us,
            background_us: self.background_us - before.background_us,
        }
    }
}

/// Processor time of all threads that a process has now.
///
/// # Errors
/// Where `/proc` is missing, or the process is gone.
pub fn cpu(pid: u32) -> Result<Cpu, CalibrateError> {
    let unreadable = |source: io::Error| {
        let what = format!("the processor time of process {pid}");
        CalibrateError::Proc { what, source }
    };
    let mut cpu = Cpu::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).map_err(unreadable)? {
        let path = task.map_err(unreadable)?.path();
        // A thread may end between the listing and the reading.
        let read = |file: &str| fs::read_to_string(path.join(file));
        let (Ok(name), Ok(schedstat), Ok(status)) =
            (read("comm"), read("schedstat"), read("status"))
        else {
            continue;
        };
        let ran_ns = schedstat
            .split_whitespace()
            .next()
            .and_then(|ns| ns.parse::<f64>().ok())
            .unwrap_or(0.0);
        let slept = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let wakes = slept.and_then(|count| count.trim().parse::<f64>().ok()).unwrap_or(0.0);
        let us = ran_ns / 1e3;
        match name.trim_end() {
            "log-writer" => cpu.writer_us += us,
            name if name.starts_with("shards-") => {
                (cpu.shards_us, cpu.shards_wakes) = (cpu.shards_us + us, cpu.shards_wakes + wakes)
            }
            // The threads of jemalloc give memory back.
            name if name.starts_with("rocksdb") || name.starts_with("jemalloc") => {
                cpu.background_us += us
            }
            _ => {
                (cpu.network_us, cpu.network_wakes) =
                    (cpu.network_us + us, cpu.network_wakes + wakes)
            }
        }
    }
    if cpu.total_us() == 0.0 {
        return Err(unreadable(io::Error::other("schedstat says nothing")));
    }
    Ok(cpu)
}

/// Processor time that no process has used since the machine started, on all cores together, in
/// microseconds.
///
/// # Errors
/// Where `/proc` is missing.
pub fn idle_us() -> Result<f64, CalibrateError> {
    // The unit is hundredths of a second on every common Linux. The fields are user, nice, system,
    // idle, iowait.
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or_default().split_whitespace().skip(4).take(2);
    let ticks: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    match ticks[..] {
        [idle, waiting] => Ok((idle + waiting) * 1e4),
        _ => Err(CalibrateError::Proc {
            what: "how idle the machine is".to_owned(),
            source: io::Error::other("/proc/stat does not say it"),
        }),
    }
}

/// Anonymous resident memory of a process, in bytes.
///
/// # Errors
/// Where `/proc` is missing, or the process is gone.
pub fn memory_bytes(pid: u32) -> Result<f64, CalibrateError> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.map(|kib| kib * 1_024.0).ok_or_else(|| CalibrateError::Proc {
        what: format!("the memory of process {pid}"),
        source: io::Error::other("its status does not say RssAnon"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_what_it_uses() {
        let before = cpu(std::process::id()).expect("/proc");
        let mut sum = 0u64;
        while cpu(std::process::id()).expect("/proc").since(&before).total_us() < 10_000.0 {
            sum = (0..100_000u64).fold(sum, |sum, n| std::hint::black_box(sum.wrapping_add(n)));
        }
        let slept = cpu(std::process::id()).expect("/proc").network_wakes;
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(cpu(std::process::id()).expect("/proc").network_wakes > slept);
        assert!(memory_bytes(std::process::id()).expect("/proc") > 100_000.0, "{sum}");
        assert!(cpu(u32::MAX - 1).is_err());
    }
}
