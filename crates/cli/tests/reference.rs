//! `docs/reference/command-line.md` is the help of every verb, as the program prints it.
//!
//! `PALISADE_BLESS=1 cargo test -p palisade-cli --test reference` writes the page anew.

use std::path::PathBuf;
use std::process::Command;

const HEAD: &str = "\
# Command line

The help of every verb, as `palisade VERB --help` prints it.
Exit codes and JSON are explained in [the command line in scripts](../guide/command-line.md).

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-cli --test reference`. -->
";

/// What `palisade VERB… --help` prints, 100 columns wide, whatever the environment of this test is.
fn help(verbs: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    for name in ["PALISADE_ENDPOINT", "PALISADE_OWNER", "PALISADE_GUARD_FILE"] {
        command.env_remove(name); // help shows the value of a variable that is set
    }
    let output = command.args(verbs).arg("--help").env("COLUMNS", "100").env("NO_COLOR", "1").output();
    let output = output.expect("start palisade");
    assert!(output.status.success(), "palisade {verbs:?} --help: {output:?}");
    let text = String::from_utf8(output.stdout).expect("help in UTF-8");
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The verbs that a help lists.
fn verbs_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    verbs.filter_map(|line| line.split_whitespace().next()).filter(|verb| *verb != "help").map(str::to_owned).collect()
}

fn add(verbs: &[String], page: &mut String) {
    let help = help(verbs);
    let title = std::iter::once("palisade").chain(verbs.iter().map(String::as_str)).collect::<Vec<_>>().join(" ");
    page.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", help.trim_end()));
    for verb in verbs_in(&help) {
        add(&[verbs, &[verb]].concat(), page);
    }
}

#[test]
fn the_page_is_the_help_of_every_verb() {
    let mut page = HEAD.to_owned();
    add(&[], &mut page);
    for verb in ["acquire", "lock", "session open", "cluster status"] {
        assert!(page.contains(&format!("\n## `palisade {verb}`\n")), "{verb} is missing in\n{page}");
    }
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/command-line.md");
    if std::env::var_os("PALISADE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make the directory");
        std::fs::write(&path, &page).expect("write the page");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(kept, page, "the help has changed: look at it, and write the page anew (see the head of this test)");
}
