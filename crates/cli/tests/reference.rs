//! `docs/reference/command-line.md` is the help of every verb, as the program prints it.
//! `docs/reference/cluster-file.md` has every key of the cluster file, in the words of the types.
//!
//! `PALISADE_BLESS=1 cargo test -p palisade-cli --test reference` writes both pages anew.

use routing::Settings;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

const COMMAND_LINE: &str = "\
# Command line

The help of every verb, as `palisade VERB --help` prints it.
Exit codes and JSON are explained in [the command line in scripts](../guide/command-line.md).

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-cli --test reference`. -->
";

const CLUSTER_FILE: &str = "\
# Cluster file

Every key of `cluster.yaml`. Unknown keys are refused, and so are values out of range;
`palisade cluster check --config FILE` says which and why.
Frozen keys cannot change once the cluster has started.
What to write first is in [deploy](../operate/deploy.md); `config/dev.yaml` shows every setting.

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-cli --test reference`. -->
";

/// A struct of the cluster file, and its heading on the page.
const PARTS: [(&str, &str); 5] = [
    ("ClusterConfig", "The whole file"),
    ("NodeConfig", "`nodes`: a list of"),
    ("GatewayConfig", "`gateways`: a list of"),
    ("PlacementConfig", "`placement`: a list of"),
    ("Settings", "`settings`"),
];

/// The path of a file in this repository.
fn file(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Compares a page with the stored one, and first stores it if `PALISADE_BLESS` is set.
fn kept(path: &str, page: &str) {
    let path = file(path);
    if std::env::var_os("PALISADE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make the directory");
        std::fs::write(&path, page).expect("write the page");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept,
        page,
        "{} is out of date: look at the change, and write the page anew (see the head of this test)",
        path.display()
    );
}

/// The output of `palisade VERB… --help`, 100 columns wide, independent of this test's environment.
fn help(verbs: &[String]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    for name in ["PALISADE_ENDPOINT", "PALISADE_OWNER", "PALISADE_GUARD_FILE"] {
        command.env_remove(name); // help shows the value of a set variable
    }
    let output =
        command.args(verbs).arg("--help").env("COLUMNS", "100").env("NO_COLOR", "1").output();
    let output = output.expect("start palisade");
    assert!(output.status.success(), "palisade {verbs:?} --help: {output:?}");
    let text = String::from_utf8(output.stdout).expect("help in UTF-8");
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The verbs that a help text lists.
fn verbs_in(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = lines.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    verbs
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

fn add(verbs: &[String], page: &mut String) {
    let help = help(verbs);
    let title = std::iter::once("palisade")
        .chain(verbs.iter().map(String::as_str))
        .collect::<Vec<_>>()
        .join(" ");
    page.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", help.trim_end()));
    for verb in verbs_in(&help) {
        add(&[verbs, &[verb]].concat(), page);
    }
}

#[test]
fn the_page_is_the_help_of_every_verb() {
    let mut page = COMMAND_LINE.to_owned();
    add(&[], &mut page);
    for verb in ["acquire", "lock", "session open", "cluster status"] {
        assert!(
            page.contains(&format!("\n## `palisade {verb}`\n")),
            "{verb} is missing in\n{page}"
        );
    }
    kept("docs/reference/command-line.md", &page);
}

/// The fields of a struct with their documentation, each in one line.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let start = format!("pub struct {name} {{\n");
    let (_, body) = source.split_once(&start).unwrap_or_else(|| panic!("there is no `{start}`"));
    let (body, _) = body.split_once("\n}").expect("the end of the struct");
    let mut fields = Vec::new();
    let mut said: Vec<&str> = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            said.extend(Some(words.trim()).filter(|words| !words.is_empty()));
        } else if let Some((field, _)) =
            line.strip_prefix("pub ").and_then(|field| field.split_once(':'))
        {
            fields.push((field.to_owned(), said.join(" ").replace('|', "\\|")));
            said.clear();
        }
    }
    fields
}

/// The default of each setting, in Rust's debug format.
fn defaults() -> BTreeMap<String, String> {
    let shown = format!("{:#?}", Settings::default());
    let lines = shown.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_page_has_every_key_of_the_cluster_file() {
    let path = file("crates/routing/src/config/mod.rs");
    let source = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let defaults = defaults();
    let mut page = CLUSTER_FILE.to_owned();
    for (name, title) in PARTS {
        let fields = fields(&source, name);
        assert!(
            fields.len() >= 2 && fields.iter().all(|(_, said)| !said.is_empty()),
            "{name}: {fields:?}"
        );
        page.push_str(&format!("\n## {title}\n\n"));
        page.push_str(if name == "Settings" {
            "| key | default | meaning |\n|---|---|---|\n"
        } else {
            "| key | meaning |\n|---|---|\n"
        });
        for (field, said) in fields {
            match defaults.get(&field).filter(|_| name == "Settings") {
                Some(value) => page.push_str(&format!("| `{field}` | {value} | {said} |\n")),
                None => page.push_str(&format!("| `{field}` | {said} |\n")),
            }
        }
    }
    assert!(page.contains("| `tick_ms` | 50 |"), "{page}");
    kept("docs/reference/cluster-file.md", &page);
}
