//! Small C programs, for tasks that a shell cannot perform.

use std::path::Path;
use std::process::Command;

/// Compiles a C program to the file `to`, with the `cc` that Rust links with.
///
/// # Panics
/// If the program does not compile.
pub fn compile_c(source: &str, to: &Path) {
    let file = to.with_extension("c");
    std::fs::write(&file, source).expect("write a source");
    let compiled = Command::new("cc").args(["-pthread", "-o"]).arg(to).arg(&file).status();
    assert!(compiled.expect("start cc").success(), "{} does not compile", file.display());
}
