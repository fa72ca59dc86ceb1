//! The `palisade` program that the tests run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `palisade` program: the file that `PALISADE_BIN` names, or a program that is built now from
/// this source tree in the release profile.
///
/// # Panics
/// If the program cannot be built.
pub fn palisade_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("PALISADE_BIN") {
            return PathBuf::from(path);
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--release", "--quiet", "-p", "palisade-cli"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("start cargo");
        assert!(built.success(), "cargo build -p palisade-cli failed");
        // This test runs from target/<profile>/deps/.
        let me = std::env::current_exe().expect("path of the test");
        let target = me.ancestors().nth(3).expect("target directory");
        target.join("release").join("palisade")
    })
}
