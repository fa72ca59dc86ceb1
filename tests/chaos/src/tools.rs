//! What this machine has to hurt a cluster with, and what is missing.

use crate::faults::Kind;
use std::path::PathBuf;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// This process has network and mount namespaces of its own.
    pub namespaces: bool,
    /// libfaketime, for a process' clocks.
    pub faketime: Option<PathBuf>,
    /// libfiu, for a process' system calls: both libraries, as LD_PRELOAD wants them.
    pub fiu: Option<String>,
}

impl Tools {
    /// Looks around.
    pub fn find(namespaces: bool) -> Tools {
        let below = |dir: &str| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let faketime = below("/usr/lib").chain(["/usr/lib".into(), "/usr/local/lib".into()]);
        let faketime = faketime.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
        let fiu = ["/usr/lib/fiu", "/usr/local/lib/fiu"].into_iter().find_map(|dir| {
            let both = ["fiu_run_preload.so", "fiu_posix_preload.so"].map(|name| format!("{dir}/{name}"));
            both.iter().all(|path| PathBuf::from(path).exists()).then(|| both.join(" "))
        });
        Tools { namespaces, faketime, fiu }
    }

    /// Why this cannot be done to a cluster here. `None`: it can.
    pub fn missing(&self, kind: Kind) -> Option<&'static str> {
        if kind.needs_namespaces() && !self.namespaces {
            return Some("it needs namespaces of its own: run as root, or allow unprivileged user namespaces");
        }
        match kind {
            Kind::WallClock | Kind::Drift if self.faketime.is_none() => Some("it needs libfaketime (Debian: faketime)"),
            Kind::FailedSync if self.fiu.is_none() => Some("it needs libfiu (Debian: fiu-utils)"),
            _ => None,
        }
    }
}
