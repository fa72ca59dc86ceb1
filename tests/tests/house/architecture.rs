//! House rules as tests.
//!
//! The rules say which crate may use which other crate, and where raft and RocksDB may appear. They
//! also cover module docs, file lengths, and the lints of the pure crates. The tests read cargo's
//! metadata and the source files, and know nothing of the code's behaviour.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates of this workspace, and the workspace crates that each may use. A new crate or edge is
/// a decision, so it must be added here and in ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("planted", &[]),
    ("access", &[]),
    ("audit", &[]),
    ("net", &[]),
    ("process", &[]),
    ("traces", &[]),
    ("console", &[]),
    ("locks", &["planted"]),
    ("watch", &["locks", "planted"]),
    ("routing", &["planted"]),
    ("topology", &["routing"]),
    ("storage", &["routing"]),
    ("shard", &["locks", "planted", "routing", "storage", "topology"]),
    ("wire", &["routing"]),
    ("service", &["locks", "planted", "routing", "shard", "wire"]),
    (
        "node",
        &[
            "audit", "locks", "net", "process", "routing", "service", "shard", "storage",
            "topology", "traces", "watch", "wire",
        ],
    ),
    ("link", &["net", "planted", "routing", "wire"]),
    ("client", &["link", "net", "planted", "routing", "wire"]),
    ("planner", &["routing"]),
    (
        "gateway",
        &[
            "access", "audit", "console", "link", "net", "planner", "planted", "process",
            "routing", "topology", "traces", "wire",
        ],
    ),
    ("capacity-sim", &["planner", "routing"]),
    ("local-cluster", &["audit", "client", "gateway", "net", "node", "routing", "storage"]),
    ("load", &["client", "link", "local-cluster", "planner", "routing", "storage", "wire"]),
    ("cli", EVERYTHING),
    ("tests", EVERYTHING),
    ("sim", EVERYTHING),
    ("chaos", &["client", "gateway", "routing", "wire", "local-cluster", "sim", "tests"]),
    ("fuzz", EVERYTHING),
    ("benches", EVERYTHING),
    ("examples", &["client"]),
];
const EVERYTHING: &[&str] = &[
    "planted",
    "access",
    "audit",
    "net",
    "process",
    "traces",
    "console",
    "locks",
    "watch",
    "routing",
    "topology",
    "storage",
    "shard",
    "wire",
    "service",
    "node",
    "link",
    "client",
    "gateway",
    "planner",
    "capacity-sim",
    "local-cluster",
    "load",
];

/// The libraries that one crate hides from all others, and that crate. `benches` measures them
/// bare, to know the ceiling.
const HIDDEN: &[(&str, &str)] = &[("raft", "shard"), ("rocksdb", "storage")];
const MEASURES_BARE: &str = "benches";

/// The crates with results that may not depend on clocks, randomness or hash order.
const PURE: &[&str] = &["access", "locks", "routing", "service", "shard", "topology", "watch"];
/// The items that their `clippy.toml` must ban at least.
const BANNED: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::collections::HashMap",
    "std::collections::HashSet",
];
/// More items that it must ban, except in `shard`: raft-rs draws its election timeouts itself, and
/// the simulator sets them.
const BANNED_RANDOMNESS: &[&str] = &["rand::rng", "rand::thread_rng", "rand::random"];

/// Files and directories without I/O, in crates that have I/O elsewhere. The simulator runs them as
/// they are.
const SANS_IO: &[&str] =
    &["crates/gateway/src/core/", "crates/link/src/retry/", "crates/link/src/leaders.rs"];
/// What stands in no such file.
const IO: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "std::net",
    "std::fs",
    "Instant",
    "SystemTime",
    "thread",
    "rand::",
    "HashMap",
    "HashSet",
];

const LINES_MAX: usize = 600;
/// The files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One dependency of a workspace crate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Edge {
    /// The name without `palisade-`.
    from: String,
    to: String,
    /// Whether only tests need the dependency.
    dev: bool,
}

/// The name of a workspace crate without its prefix.
fn ours(package: &str) -> Option<&str> {
    package.strip_prefix("palisade-")
}

/// The workspace crates and all their direct dependencies.
fn workspace() -> (BTreeSet<String>, BTreeSet<Edge>) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let (mut crates, mut edges) = (BTreeSet::new(), BTreeSet::new());
    for package in metadata["packages"].as_array().expect("packages") {
        let name = text(&package["name"]);
        let from = ours(&name)
            .unwrap_or_else(|| panic!("{name}: our crates are called palisade-…"))
            .to_owned();
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            // `kind` is null for a normal dependency.
            let dev = dependency["kind"].as_str() == Some("dev");
            edges.insert(Edge { from: from.clone(), to: text(&dependency["name"]), dev });
        }
        crates.insert(from);
    }
    (crates, edges)
}

/// Every edge that the rules forbid, for people.
fn forbidden(edges: &BTreeSet<Edge>) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut found = Vec::new();
    for Edge { from, to, dev } in edges {
        let may_use = allowed.get(from.as_str()).copied().unwrap_or_default();
        if let Some(to) = ours(to)
            && !may_use.contains(&to)
        {
            // The tests of a crate may use other crates, because cargo keeps these out of the
            // shipped program.
            match dev {
                true => println!("for its tests, {from} uses {to}"),
                false => found.push(format!("{from} may not use {to}")),
            }
        }
        for (library, owner) in HIDDEN {
            if to == library && from != owner && from != MEASURES_BARE {
                found.push(format!("{from} may not use {library}: only {owner} may"));
            }
        }
    }
    found
}

#[test]
fn crates_use_only_what_they_may() {
    let (crates, edges) = workspace();
    let listed: BTreeSet<String> = ALLOWED.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(crates, listed, "the crates of the workspace (left) and those that the rules know");
    assert!(edges.iter().any(|edge| edge.to == "rocksdb"), "dependencies were read");
    let found = forbidden(&edges);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_rules_notice_what_they_forbid() {
    let edge = |from: &str, to: &str, dev| {
        BTreeSet::from([Edge { from: from.into(), to: to.into(), dev }])
    };
    assert_eq!(forbidden(&edge("locks", "palisade-storage", false)), ["locks may not use storage"]);
    assert_eq!(forbidden(&edge("gateway", "palisade-node", false)), ["gateway may not use node"]);
    assert_eq!(forbidden(&edge("unknown", "palisade-node", false)), ["unknown may not use node"]);
    assert_eq!(forbidden(&edge("node", "raft", false)), ["node may not use raft: only shard may"]);
    assert_eq!(
        forbidden(&edge("shard", "rocksdb", true)),
        ["shard may not use rocksdb: only storage may"]
    );
    assert_eq!(forbidden(&edge("planner", "palisade-wire", true)), [""; 0]);
    assert_eq!(forbidden(&edge("storage", "palisade-routing", false)), [""; 0]);
}

#[test]
fn the_allowed_edges_have_no_cycle() {
    // Each crate may only use crates that are listed before it.
    for (at, (name, may_use)) in ALLOWED.iter().enumerate() {
        let before: Vec<&str> = ALLOWED[..at].iter().map(|(name, _)| *name).collect();
        assert!(
            may_use.iter().all(|used| before.contains(used)),
            "{name} may use {may_use:?}, not all listed before it"
        );
    }
}

/// All `.rs` files of the workspace, relative to the root.
fn sources() -> Vec<String> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in
            std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        {
            let path = entry.expect("directory entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    for dir in ["crates", "tools", "tests", "benches", "examples"] {
        walk(&root.join(dir), &mut found);
    }
    assert!(found.len() > 20, "sources were found");
    let relative =
        |path: PathBuf| path.strip_prefix(&root).expect("below the root").display().to_string();
    found.into_iter().map(relative).collect()
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<String> =
        sources().into_iter().filter(|path| !read(path).starts_with("//! ")).collect();
    assert!(silent.is_empty(), "these do not start with `//!` on line 1: {silent:#?}");
}

#[test]
fn files_have_a_length_that_can_be_read() {
    let excused: BTreeSet<&str> = LONG_FILES.iter().map(|(path, _)| *path).collect();
    let long: BTreeMap<String, usize> = (sources().into_iter())
        .map(|path| (read(&path).lines().count(), path))
        .filter_map(|(lines, path)| (lines > LINES_MAX).then_some((path, lines)))
        .collect();
    let too_long: Vec<_> =
        long.iter().filter(|(path, _)| !excused.contains(path.as_str())).collect();
    assert!(too_long.is_empty(), "split these where they have a seam: {too_long:#?}");
    let idle: Vec<_> = excused.iter().filter(|path| !long.contains_key(**path)).collect();
    assert!(idle.is_empty(), "these need no excuse any more: {idle:?}");
}

/// The file that each crate may have for its planted bugs, and the call that asks for one.
const HOOKS: &str = "planted_bugs.rs";
const HOOKED: &str = "planted::is(";

#[test]
fn planted_bugs_are_in_files_of_their_own() {
    let hooked: Vec<String> =
        sources().into_iter().filter(|path| read(path).contains(HOOKED)).collect();
    let (hooks, mixed): (Vec<&String>, Vec<&String>) = hooked
        .iter()
        .filter(|path| !path.starts_with("tests/"))
        .partition(|path| path.ends_with(HOOKS));
    assert!(
        mixed.is_empty(),
        "these mix shipped code with bugs, which belong in {HOOKS}: {mixed:?}"
    );
    let found: Vec<&str> = hooks.iter().filter_map(|path| path.split('/').nth(1)).collect();
    assert_eq!(found.len(), found.iter().collect::<BTreeSet<_>>().len(), "one file for each crate");
    for name in ["locks", "shard", "link", "client"] {
        assert!(found.contains(&name), "{name} has bugs, but they were not found");
    }
}

#[test]
fn pure_crates_ban_clocks_randomness_and_hash_order() {
    for name in PURE {
        let rules = read(&format!("crates/{name}/clippy.toml"));
        let randomness = if *name == "shard" { &[] } else { BANNED_RANDOMNESS };
        for banned in BANNED.iter().chain(randomness) {
            assert!(
                rules.contains(&format!("path = \"{banned}\"")),
                "crates/{name}/clippy.toml does not ban {banned}"
            );
        }
        for line in rules.lines().filter(|line| line.contains("path = ")) {
            assert!(
                line.contains("reason = \""),
                "crates/{name}/clippy.toml bans without a reason: {line}"
            );
        }
        // The bans only set levels of these lints, and the workspace denies the lints.
        let manifest = read(&format!("crates/{name}/Cargo.toml"));
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "crates/{name} does not take the workspace's lints"
        );
    }
    let manifest = read("Cargo.toml");
    for lint in ["disallowed_methods", "disallowed_types"] {
        assert!(
            manifest.contains(&format!("{lint} = \"deny\"")),
            "the workspace does not deny {lint}"
        );
    }
}

#[test]
fn what_the_simulator_runs_has_no_io() {
    let files: Vec<String> = sources()
        .into_iter()
        .filter(|path| SANS_IO.iter().any(|pure| path.starts_with(pure)))
        .filter(|path| !path.ends_with("tests.rs"))
        .collect();
    assert!(files.len() > SANS_IO.len(), "only {files:?}");
    let mut found = Vec::new();
    for path in &files {
        let code = read(path);
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (io, line) in lines.flat_map(|line| IO.iter().map(move |io| (io, line))) {
            if line.contains(io) {
                found.push(format!("{path}: {io:?} in {line:?}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn pure_crates_do_not_lift_their_bans() {
    let of_pure =
        |path: &String| PURE.iter().any(|name| path.starts_with(&format!("crates/{name}/")));
    for path in sources().into_iter().filter(of_pure) {
        let lifted = read(&path)
            .lines()
            .any(|line| line.contains("allow(") && line.contains("clippy::disallowed"));
        assert!(!lifted, "{path} allows what its crate bans");
    }
}

#[test]
fn what_must_pass_before_a_change_lands_runs_clippy_on_everything() {
    assert!(read(".ci/run").contains("scripts/test"));
    let script = read("scripts/test");
    let clippy = script
        .lines()
        .find(|line| line.trim_start().starts_with("cargo clippy"))
        .expect("a clippy line");
    for flag in ["--workspace", "--all-targets", "-D warnings"] {
        assert!(clippy.contains(flag), "{flag} is missing in: {clippy}");
    }
}
