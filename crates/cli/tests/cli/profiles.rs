//! A flag wins over its variable, and that over the profile: by the gateway that a verb tries to
//! reach, because no gateway runs here.

use std::path::Path;
use std::process::Command;

const FILE: &str = "
default: first
profiles:
  first: { endpoint: '127.0.0.1:1' }
  second: { endpoint: '127.0.0.1:2' }
  half: { endpoint: '127.0.0.1:3', cert: a.pem }
";

/// The error of a verb as JSON, and its exit code.
fn error(home: &Path, words: &[&str], variables: &[(&str, &str)]) -> (serde_json::Value, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.args(["ls", "--json", "--timeout", "200ms"]).args(words);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PALISADE_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", home).envs(variables.iter().copied());
    let output = command.output().expect("start palisade");
    let document: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no JSON: {output:?}"));
    (document["error"].clone(), output.status.code().expect("an exit code"))
}

fn home() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir(dir.path().join("palisade")).expect("made");
    std::fs::write(dir.path().join("palisade/config.yaml"), FILE).expect("written");
    dir
}

#[test]
fn a_flag_wins_over_its_variable_and_that_over_the_profile() {
    let home = home();
    let port_of = |words: &[&str], variables: &[(&str, &str)]| {
        let (error, code) = error(home.path(), words, variables);
        assert_eq!((error["code"].as_str(), code), (Some("UNREACHABLE"), 1), "{error}");
        let message = error["message"].as_str().expect("a message");
        let port = message.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next());
        port.expect("the gateway is named").to_owned()
    };
    let endpoint = ("PALISADE_ENDPOINT", "127.0.0.1:4");
    let profile = ("PALISADE_PROFILE", "second");
    assert_eq!(port_of(&[], &[]), "1", "the file's default");
    assert_eq!(port_of(&[], &[profile]), "2");
    assert_eq!(port_of(&["--profile", "first"], &[profile]), "1");
    assert_eq!(port_of(&[], &[endpoint]), "4");
    assert_eq!(port_of(&[], &[endpoint, profile]), "4");
    assert_eq!(port_of(&["--endpoint", "127.0.0.1:5"], &[endpoint, profile]), "5");
    // Compose and systemd write `VAR=` for none.
    assert_eq!(port_of(&[], &[("PALISADE_ENDPOINT", ""), ("PALISADE_PROFILE", "")]), "1");
}

#[test]
fn a_profile_that_cannot_be_used_is_told_with_the_next_step() {
    let home = home();
    for (words, message, next) in [
        (["--profile", "none"], "no profile \"none\"", "one of: first, half, second"),
        (["--profile", "half"], "--cert is given without --key", "add --key"),
    ] {
        let (error, code) = error(home.path(), &words, &[]);
        assert_eq!((error["code"].as_str(), code), (Some("CONFIG"), 2), "{error}");
        let holds = |key: &str, part: &str| error[key].as_str().is_some_and(|t| t.contains(part));
        assert!(holds("message", message) && holds("next", next), "{error}");
    }
    std::fs::write(home.path().join("palisade/config.yaml"), "profiles: [").expect("written");
    let (error, code) = error(home.path(), &[], &[]);
    assert_eq!((error["code"].as_str(), code), (Some("CONFIG"), 2), "{error}");
}
