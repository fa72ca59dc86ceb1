//! A disk that can hang, built from `tests/shim/hang.c`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that makes a process's disk hang, and the file that switches the hang on.
#[derive(Clone, Debug)]
pub struct HangingDisk {
    library: PathBuf,
    switch: PathBuf,
}

impl HangingDisk {
    /// Compiles the library into `dir`, with the switch `name` beside it. Returns `None` if this
    /// machine has no C compiler.
    ///
    /// # Panics
    /// If there is a compiler, but it rejects the library.
    pub fn build(dir: &Path, name: &str) -> Option<HangingDisk> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("shim/hang.c");
        let library = dir.join("hang.so");
        if !library.exists() {
            let mut cc = Command::new("cc");
            cc.args(["-shared", "-fPIC", "-O2", "-o"]).arg(&library).arg(source).arg("-ldl");
            let compiled = cc.output().ok()?;
            assert!(compiled.status.success(), "cc: {}", String::from_utf8_lossy(&compiled.stderr));
        }
        Some(HangingDisk { library, switch: dir.join(name) })
    }

    /// The environment of a process with this disk. With `thread`, only that thread hangs. With
    /// `None`, all threads do.
    pub fn environment(&self, thread: Option<&str>) -> Vec<(String, String)> {
        let mut env = vec![
            ("LD_PRELOAD".to_owned(), self.library.display().to_string()),
            ("PALISADE_HANG_WHILE".to_owned(), self.switch.display().to_string()),
        ];
        env.extend(thread.map(|thread| ("PALISADE_HANG_THREAD".to_owned(), thread.to_owned())));
        env
    }

    /// Makes the disk hang: from now on, no write returns.
    ///
    /// # Panics
    /// If the switch cannot be made.
    pub fn hang(&self) {
        std::fs::write(&self.switch, "").expect("make the switch");
    }

    /// Ends the hang, so that writes return again.
    ///
    /// # Panics
    /// If the disk does not hang.
    pub fn go_on(&self) {
        std::fs::remove_file(&self.switch).expect("remove the switch");
    }
}
