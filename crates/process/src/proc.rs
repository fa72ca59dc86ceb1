//! The figures of this process, from the files below `/proc`.

use rustix::process::{Resource, getrlimit};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// Longer than `/proc/self/stat` ever is: 52 numbers and a name.
const STAT_BYTES_MAX: usize = 4_096;

/// Where the figures come from. The file stays open, so that they are told of a process without a
/// free descriptor, too.
#[derive(Debug)]
pub(crate) struct Sources {
    stat: Option<File>,
    /// When the machine booted, in seconds since 1970.
    booted_seconds: f64,
}

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

impl Sources {
    pub(crate) fn open() -> Sources {
        Sources {
            stat: File::open("/proc/self/stat").ok(),
            booted_seconds: booted_seconds(&fs::read_to_string("/proc/stat").unwrap_or_default()),
        }
    }

    /// The figures now.
    pub(crate) fn read(&self) -> Figures {
        let max_fds = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let open_fds = match fs::read_dir("/proc/self/fd") {
            Ok(all) => all.count() as u64,
            Err(error) if out_of_descriptors(&error) => max_fds,
            Err(_) => 0,
        };
        let mut figures = Figures { open_fds, max_fds, ..Figures::default() };
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page_bytes = rustix::param::page_size() as u64;
        figures.take_stat(&self.stat(), ticks, page_bytes);
        if figures.start_seconds > 0.0 {
            figures.start_seconds += self.booted_seconds;
        }
        figures
    }

    fn stat(&self) -> String {
        let mut text = [0; STAT_BYTES_MAX];
        let read = self.stat.as_ref().map_or(0, |file| file.read_at(&mut text, 0).unwrap_or(0));
        String::from_utf8_lossy(&text[..read]).into_owned()
    }
}

/// Whether this process has opened as many files as it may.
fn out_of_descriptors(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error())
}

impl Figures {
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
    fn the_boot_is_read_from_its_line() {
        assert_eq!(booted_seconds("cpu 1 2\nbtime 1700000000\n"), 1_700_000_000.0);
    }
}
