//! The tools that this machine has for faults, and the missing ones.

use crate::kinds::Kind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The tools that were found on this machine.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// Whether this process has network and mount namespaces of its own.
    pub namespaces: bool,
    /// iptables-restore, which cuts connections and loses packets.
    pub iptables: bool,
    /// timeout, for tools that may wait for ever.
    pub timeout: bool,
    /// libfaketime, for a process's clocks.
    pub faketime: Option<PathBuf>,
    /// libfiu, for a process's system calls: both libraries, in the form of LD_PRELOAD.
    pub fiu: Option<String>,
    /// The library that makes a process's disk hang, compiled from `tests/shim/hang.c`.
    pub hang: Option<PathBuf>,
    /// The library that suspends a process, compiled from `tests/shim/suspend.c`.
    pub suspend: Option<PathBuf>,
}

impl Tools {
    /// Finds the tools on this machine. Libraries that must be compiled are put into `dir`.
    pub fn find(namespaces: bool, dir: &Path) -> Tools {
        let below = |dir: &str| {
            std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
        };
        let faketime = below("/usr/lib").chain(["/usr/lib".into(), "/usr/local/lib".into()]);
        let faketime =
            faketime.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        let fiu = ["/usr/lib/fiu", "/usr/local/lib/fiu"].into_iter().find_map(|dir| {
            let both =
                ["fiu_run_preload.so", "fiu_posix_preload.so"].map(|name| format!("{dir}/{name}"));
            both.iter().all(|path| PathBuf::from(path).exists()).then(|| both.join(" "))
        });
        let (hang, suspend) = (compiled("hang", dir), compiled("suspend", dir));
        Tools {
            namespaces,
            iptables: has_packet_filter(),
            timeout: has("timeout"),
            faketime,
            fiu,
            hang,
            suspend,
        }
    }

    /// The reason why this kind cannot be inflicted on a cluster here. `None` if it can.
    pub fn missing(&self, kind: Kind) -> Option<&'static str> {
        if kind.needs_namespaces() && !self.namespaces {
            return Some(
                "it needs namespaces of its own: run as root, or allow unprivileged user \
                 namespaces",
            );
        }
        match kind {
            Kind::Halves
            | Kind::IsolatedLeader
            | Kind::Ring
            | Kind::OneWay
            | Kind::GatewayCut
            | Kind::Loss
            | Kind::Delay
                if !self.iptables =>
            {
                Some("it needs iptables-restore (Debian: iptables)")
            }
            Kind::WallClock | Kind::Drift if self.faketime.is_none() => {
                Some("it needs libfaketime (Debian: faketime)")
            }
            Kind::FailedSync if self.fiu.is_none() => Some("it needs libfiu (Debian: fiu-utils)"),
            Kind::FailedSync if !self.timeout => Some("it needs timeout (Debian: coreutils)"),
            Kind::HungDisk | Kind::HungWriter if self.hang.is_none() => Some(NO_COMPILER),
            Kind::SuspendedClient if self.suspend.is_none() => Some(NO_COMPILER),
            _ => None,
        }
    }
}

const NO_COMPILER: &str = "it needs a C compiler (Debian: build-essential)";

/// Compiles a library to preload from its source in `tests/shim`.
fn compiled(name: &str, dir: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../shim/{name}.c"));
    let library = dir.join(format!("{name}.so"));
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(source)
        .arg("-ldl")
        .status();
    made.is_ok_and(|made| made.success()).then_some(library)
}

/// Whether connections can be cut, if there are namespaces.
pub fn has_packet_filter() -> bool {
    has("iptables-restore")
}

fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_tool_takes_its_own_faults_away_and_no_others() {
        let all = || Tools {
            namespaces: true,
            iptables: true,
            timeout: true,
            faketime: Some(PathBuf::from("faketime")),
            fiu: Some("fiu".into()),
            hang: Some(PathBuf::from("hang.so")),
            suspend: Some(PathBuf::from("suspend.so")),
        };
        let skipped = |tools: Tools| {
            Kind::all().filter(|kind| tools.missing(*kind).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(skipped(all()), []);
        let cuts = [
            Kind::Halves,
            Kind::IsolatedLeader,
            Kind::Ring,
            Kind::OneWay,
            Kind::GatewayCut,
            Kind::Loss,
            Kind::Delay,
        ];
        assert_eq!(skipped(Tools { iptables: false, ..all() }), cuts);
        assert_eq!(skipped(Tools { timeout: false, ..all() }), [Kind::FailedSync]);
        assert_eq!(skipped(Tools { fiu: None, ..all() }), [Kind::FailedSync]);
        assert_eq!(skipped(Tools { hang: None, ..all() }), [Kind::HungDisk, Kind::HungWriter]);
        assert_eq!(skipped(Tools { suspend: None, ..all() }), [Kind::SuspendedClient]);
        let alone = skipped(Tools { namespaces: false, ..all() });
        assert!(
            cuts.iter().all(|cut| alone.contains(cut)) && !alone.contains(&Kind::KillLeader),
            "{alone:?}"
        );
    }
}
