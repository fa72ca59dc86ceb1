//! What this machine has to hurt a cluster with, and what is missing.

use crate::faults::Kind;
use std::path::PathBuf;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// This process has network and mount namespaces of its own.
    pub namespaces: bool,
    /// iptables-restore, for what cuts connections and loses packets.
    pub iptables: bool,
    /// timeout, for processes that should end by themselves.
    pub timeout: bool,
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
        Tools { namespaces, iptables: has_packet_filter(), timeout: has("timeout"), faketime, fiu }
    }

    /// Why this cannot be done to a cluster here. `None`: it can.
    pub fn missing(&self, kind: Kind) -> Option<&'static str> {
        if kind.needs_namespaces() && !self.namespaces {
            return Some("it needs namespaces of its own: run as root, or allow unprivileged user namespaces");
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
            Kind::OtherSettings if !self.timeout => Some("it needs timeout (Debian: coreutils)"),
            Kind::WallClock | Kind::Drift if self.faketime.is_none() => Some("it needs libfaketime (Debian: faketime)"),
            Kind::FailedSync if self.fiu.is_none() => Some("it needs libfiu (Debian: fiu-utils)"),
            _ => None,
        }
    }
}

/// Whether connections can be cut, where there are namespaces.
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
        };
        let skipped = |tools: Tools| Kind::all().filter(|kind| tools.missing(*kind).is_some()).collect::<Vec<_>>();
        assert_eq!(skipped(all()), []);
        let cuts =
            [Kind::Halves, Kind::IsolatedLeader, Kind::Ring, Kind::OneWay, Kind::GatewayCut, Kind::Loss, Kind::Delay];
        assert_eq!(skipped(Tools { iptables: false, ..all() }), cuts);
        assert_eq!(skipped(Tools { timeout: false, ..all() }), [Kind::OtherSettings]);
        assert_eq!(skipped(Tools { fiu: None, ..all() }), [Kind::FailedSync]);
        let alone = skipped(Tools { namespaces: false, ..all() });
        assert!(cuts.iter().all(|cut| alone.contains(cut)) && !alone.contains(&Kind::KillLeader), "{alone:?}");
    }
}
