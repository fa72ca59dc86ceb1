//! Finds the commit that the program is built from, for `--version`.
//!
//! * `PALISADE_COMMIT` in the environment comes first, for builds without the repository.
//! * Without it and without a repository, as in a release's archive, the commit is `unknown`. An
//!   archive that lies within another repository is not taken for a part of it.
//! * The program is built again when the commit changes, and not otherwise.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PALISADE_COMMIT");
    let given = std::env::var("PALISADE_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = given.or_else(commit).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo::rustc-env=PALISADE_COMMIT={commit}");
}

/// The commit of this crate's repository. `None` if it has none.
fn commit() -> Option<String> {
    let root = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR")?).join("../..");
    let root = root.canonicalize().ok()?;
    let top = PathBuf::from(git(&root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root {
        return None;
    }
    // Without a log of HEAD, the commit changes with the branch: in a file of its own, or packed.
    let branch = git(&root, &["symbolic-ref", "-q", "HEAD"]);
    let file = |name: &str| {
        // A file that is not there would count as changed with each build.
        let file = root.join(git(&root, &["rev-parse", "--git-path", name])?);
        file.is_file().then_some(file)
    };
    let watched = match file("logs/HEAD") {
        Some(log) => vec![log],
        None => {
            let names = ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref());
            names.filter_map(file).collect()
        }
    };
    for file in watched {
        println!("cargo::rerun-if-changed={}", file.display());
    }
    git(&root, &["rev-parse", "--short=12", "HEAD"])
}

/// What git prints. `None` if it fails, or is not there.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
