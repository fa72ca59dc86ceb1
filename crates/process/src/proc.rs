//! The figures of this process, from the files below `/proc`.

use std::fs;

/// Figures of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    pub(crate) open_fds: u64,
    pub(crate) max_fds: u64,
    pub(crate) threads: u64,
    /// In seconds since 1970.
    pub(crate) start_seconds: f64,
}

impl Figures {
    /// The figures now.
    pub(crate) fn read() -> Figures {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut figures = Figures {
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |all| all.count() as u64),
            max_fds: max_fds(&read("/proc/self/limits")),
            ..Figures::default()
        };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = rustix::param::page_size() as u64;
        figures.take_stat(&read("/proc/self/stat"), ticks, page_bytes);
        if figures.start_seconds > 0.0 {
            figures.start_seconds += booted_seconds(&read("/proc/stat"));
        }
        figures
    }

    /// Takes the figures of the file `stat`, as proc(5) describes it. The start is in seconds since
    /// the machine booted.
    fn take_stat(&mut self, stat: &str, ticks: f64, page_bytes: u64) {
        // The second field is the name in parentheses, which may have spaces and parentheses in it.
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        let fields: Vec<u64> =
            rest.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        // The first of these is field 4 of the file.
        let field = |nth: usize| fields.get(nth - 4).copied().unwrap_or(0);
        self.cpu_seconds = (field(14) + field(15)) as f64 / ticks;
        self.threads = field(20);
        self.start_seconds = field(22) as f64 / ticks;
        self.virtual_bytes = field(23);
        self.resident_bytes = field(24).saturating_mul(page_bytes);
    }
}

/// The soft limit of open files, from the file `limits`.
fn max_fds(limits: &str) -> u64 {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// When the machine booted, in seconds since 1970, from the machine's file `stat`.
fn booted_seconds(stat: &str) -> f64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_process_moves_no_field() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 9 9 0 0 150 50 0 0 20 0 12 0 300 8192 3 99";
        let mut figures = Figures::default();
        figures.take_stat(stat, 100.0, 4_096);
        assert_eq!((figures.cpu_seconds, figures.threads, figures.start_seconds), (2.0, 12, 3.0));
        assert_eq!((figures.virtual_bytes, figures.resident_bytes), (8_192, 12_288));
        figures.take_stat("nothing", 100.0, 4_096);
        assert_eq!(figures.threads, 12, "what cannot be read changes nothing");
    }

    #[test]
    fn limits_and_the_boot_are_read_from_their_lines() {
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n";
        assert_eq!((max_fds(limits), max_fds("")), (1_024, 0));
        assert_eq!(booted_seconds("cpu 1 2\nbtime 1700000000\n"), 1_700_000_000.0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_and_threads() {
        let figures = Figures::read();
        assert!(figures.resident_bytes > 1 << 20, "{figures:?}");
        assert!(
            figures.threads >= 1 && figures.open_fds >= 3 && figures.max_fds > 3,
            "{figures:?}"
        );
        assert!(figures.start_seconds > 1_600_000_000.0, "{figures:?}");
    }
}
