//! Tools of other languages, which a test installs below `target/` if it can.

use std::path::PathBuf;
use std::process::Command;

/// The version of the npm package `@bufbuild/buf`.
const BUF_VERSION: &str = "1.75.0";

/// The reason why a test cannot run here. The test prints it as `skipped: …`.
#[derive(Debug)]
pub struct Skipped(pub String);

/// A directory below `target/` that exists and is kept from run to run.
///
/// # Panics
/// If the directory cannot be made.
pub fn kept_dir(name: &str) -> PathBuf {
    // A test runs from target/<profile>/deps/.
    let me = std::env::current_exe().expect("the path of this test");
    let dir = me.ancestors().nth(3).expect("the target directory").join("clients").join(name);
    std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    dir
}

/// Checks that a program can be run.
///
/// # Errors
/// [`Skipped`] if the program cannot be run.
pub fn need(program: &str, version_flag: &str) -> Result<(), Skipped> {
    match Command::new(program).arg(version_flag).output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err(Skipped(format!("there is no {program}"))),
    }
}

/// Runs a command that installs a tool.
///
/// # Errors
/// [`Skipped`] with the end of the command's output. The usual reason is a missing network.
pub fn install(what: &str, command: &mut Command) -> Result<(), Skipped> {
    let output = command.output().map_err(|error| Skipped(format!("{what}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let end: Vec<&str> = said.lines().rev().take(8).collect();
    Err(Skipped(format!(
        "{what} failed: {}",
        end.into_iter().rev().collect::<Vec<_>>().join(" / ")
    )))
}

/// Runs a command that builds a program from installed tools.
///
/// # Panics
/// If the build fails, with the whole output, because then the protocol or the client is wrong.
pub fn build(what: &str, command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
}

/// The `buf` in the path, or the one from npm.
///
/// # Errors
/// [`Skipped`] if there is neither.
pub fn buf() -> Result<PathBuf, Skipped> {
    if need("buf", "--version").is_ok() {
        return Ok("buf".into());
    }
    let dir = kept_dir("buf");
    let installed = dir.join("node_modules/.bin/buf");
    if !installed.exists() {
        need("npm", "--version")?;
        let package = format!("@bufbuild/buf@{BUF_VERSION}");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--prefix", "."])
            .arg(package)
            .current_dir(&dir);
        install("npm install", &mut npm)?;
    }
    Ok(installed)
}
