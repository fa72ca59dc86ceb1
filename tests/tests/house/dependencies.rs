//! The dependencies keep to `deny.toml`, even where `cargo deny` is not installed.
//!
//! These tests read the lists of `deny.toml` and compare them with cargo's metadata. They check
//! licences, sources and banned crates. Known vulnerabilities need a database from the network, so
//! only `cargo deny check advisories` can look for them.
//!
//! One more test reads the same metadata: a target that is left out of `cargo test` has no tests.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The packages that a build for this machine's kind of processor uses, ours included.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &target])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn text<'a>(package: &'a Value, key: &str) -> &'a str {
    package[key].as_str().unwrap_or_default()
}

/// The strings in a list of `deny.toml`.
fn listed(section: &str, key: &str) -> BTreeSet<String> {
    let file = std::fs::read_to_string(root().join("deny.toml")).expect("read deny.toml");
    strings(&file, section, key)
}

/// The strings of `key = [ … ]` below `[section]`. Comments are left out.
fn strings(file: &str, section: &str, key: &str) -> BTreeSet<String> {
    let lines = file.lines().map(|line| line.split(" #").next().unwrap_or(line));
    let body: String = lines
        .skip_while(|line| *line != format!("[{section}]"))
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .map(|line| format!("{line}\n"))
        .collect();
    let list = body.split_once(&format!("{key} = ["));
    let (_, list) = list.unwrap_or_else(|| panic!("deny.toml: [{section}] has no list {key}"));
    let (list, _) = list.split_once("]\n").expect("the end of the list");
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether an SPDX expression can be satisfied with the allowed licences alone. The old `/` between
/// licences means OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (outcome, rest) = any_of(&words, allowed);
    assert!(rest.is_empty(), "{expression}: not understood from {rest:?}");
    outcome
}

/// Alternatives that are joined by OR, and the words after them.
fn any_of<'a, 'w>(words: &'a [&'w str], allowed: &BTreeSet<String>) -> (bool, &'a [&'w str]) {
    let (mut outcome, mut rest) = all_of(words, allowed);
    while let Some(("OR", after)) = rest.split_first().map(|(word, after)| (*word, after)) {
        let (other, after) = all_of(after, allowed);
        (outcome, rest) = (outcome | other, after);
    }
    (outcome, rest)
}

/// Requirements that are joined by AND, which binds closer than OR, and the words after them.
fn all_of<'a, 'w>(words: &'a [&'w str], allowed: &BTreeSet<String>) -> (bool, &'a [&'w str]) {
    let (mut outcome, mut rest) = one(words, allowed);
    while let Some(("AND", after)) = rest.split_first().map(|(word, after)| (*word, after)) {
        let (other, after) = one(after, allowed);
        (outcome, rest) = (outcome & other, after);
    }
    (outcome, rest)
}

/// One licence, with its exception if it has one, or an expression in parentheses.
fn one<'a, 'w>(words: &'a [&'w str], allowed: &BTreeSet<String>) -> (bool, &'a [&'w str]) {
    match words {
        ["(", inner @ ..] => {
            let (outcome, rest) = any_of(inner, allowed);
            assert_eq!(rest.first(), Some(&")"), "a parenthesis is not closed");
            (outcome, &rest[1..])
        }
        [licence, "WITH", exception, rest @ ..] => {
            (allowed.contains(&format!("{licence} WITH {exception}")), rest)
        }
        [licence, rest @ ..] => (allowed.contains(*licence), rest),
        [] => (false, &[]),
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = listed("licenses", "allow");
    let packages = packages();
    assert!(packages.len() > 100, "the packages were read");
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !satisfied(text(package, "license"), &allowed))
        .map(|package| format!("{}: {:?}", text(package, "name"), text(package, "license")))
        .collect();
    assert!(refused.is_empty(), "no licence that deny.toml allows: {refused:#?}");
}

#[test]
fn every_dependency_comes_from_the_public_registry_or_from_here() {
    let root = root().canonicalize().expect("the root");
    let elsewhere: Vec<String> = packages()
        .iter()
        .filter(|package| match package["source"].as_str() {
            Some(source) => source != CRATES_IO,
            None => !PathBuf::from(text(package, "manifest_path")).starts_with(&root),
        })
        .map(|package| format!("{} from {}", text(package, "name"), package["source"]))
        .collect();
    assert!(elsewhere.is_empty(), "not from crates.io: {elsewhere:#?}");
}

#[test]
fn no_dependency_is_banned_and_ours_name_a_version_of_each() {
    let banned = listed("bans", "deny");
    for package in packages() {
        let name = text(&package, "name");
        assert!(!banned.contains(name), "deny.toml bans {name}");
        if package["source"].is_null() {
            for dependency in package["dependencies"].as_array().expect("dependencies") {
                let by_path = dependency["path"].is_string();
                let version = text(dependency, "req");
                let of = text(dependency, "name");
                assert!(by_path || version != "*", "{name} takes any version of {of}");
            }
        }
    }
}

/// The Rust files of a target: for a program its one file, and for a library all files beside it.
fn files_of(target: &Value) -> Vec<PathBuf> {
    let root = PathBuf::from(text(target, "src_path"));
    if root.file_name().is_some_and(|name| name != "lib.rs") {
        return vec![root];
    }
    let mut dirs = vec![root.parent().expect("a directory").to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("the sources") {
            let path = entry.expect("a directory entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

#[test]
fn a_target_that_cargo_does_not_test_has_no_tests() {
    let mut untested = 0;
    for package in packages().iter().filter(|package| package["source"].is_null()) {
        for target in package["targets"].as_array().expect("targets") {
            let kind = target["kind"][0].as_str().expect("a kind");
            if !["lib", "bin"].contains(&kind) || target["test"] == true {
                continue;
            }
            untested += 1;
            for file in files_of(target) {
                let source = std::fs::read_to_string(&file).expect("a source");
                // A program with modules could have its tests in them.
                let tested = ["#[test]", "::test]", "\nmod "].map(|part| source.contains(part));
                assert!(
                    kind == "lib" && !tested[0] && !tested[1] || tested == [false; 3],
                    "{} has tests: remove `test = false` of {} in its Cargo.toml",
                    file.display(),
                    text(target, "name")
                );
            }
        }
    }
    assert!(untested > 5, "the targets were read");
}

#[test]
fn licence_expressions_are_read_as_spdx_defines_them() {
    let allowed = BTreeSet::from(["MIT".to_owned(), "A WITH X".to_owned(), "BSD".to_owned()]);
    for (expression, outcome) in [
        ("MIT", true),
        ("GPL", false),
        ("", false),
        ("GPL OR MIT", true),
        ("GPL/MIT", true),
        ("GPL / BSD", true),
        ("GPL AND MIT", false),
        ("BSD AND MIT", true),
        ("GPL AND MIT OR BSD", true),
        ("GPL AND (MIT OR BSD)", false),
        ("(GPL OR MIT) AND BSD", true),
        ("A", false),
        ("A WITH X", true),
        ("A WITH Y OR GPL", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), outcome, "{expression:?}");
    }
}

#[test]
fn lists_are_read_from_their_own_section_without_comments() {
    let file = "[a]\nallow = [\"x\"]\n[b]\nallow = [\n  \"y\", # not \"n\"\n  \"z\",\n]\n[c]\n";
    assert_eq!(strings(file, "a", "allow"), BTreeSet::from(["x".to_owned()]));
    assert_eq!(strings(file, "b", "allow"), BTreeSet::from(["y".to_owned(), "z".to_owned()]));
}
