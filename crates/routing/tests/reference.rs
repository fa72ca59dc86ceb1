//! `docs/reference/cluster-file.md` has every key of the cluster file, with the words of the types' own documentation.
//!
//! `PALISADE_BLESS=1 cargo test -p palisade-routing --test reference` writes the page anew.

use palisade_routing::Settings;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const HEAD: &str = "\
# Cluster file

Every key of `cluster.yaml`. Unknown keys are refused, and so are values out of range;
`palisade cluster check --config FILE` says which and why.
Frozen keys cannot change once the cluster has started.
What to write first is in [deploy](../operate/deploy.md); `config/dev.yaml` shows every setting.

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-routing --test reference`. -->
";

/// A struct of the source, the heading for it, and where its keys are in the file.
const PARTS: [(&str, &str); 5] = [
    ("ClusterConfig", "The whole file"),
    ("NodeConfig", "`nodes`: a list of"),
    ("GatewayConfig", "`gateways`: a list of"),
    ("PlacementConfig", "`placement`: a list of"),
    ("Settings", "`settings`"),
];

fn source() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/mod.rs");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
            fields.push((field.to_owned(), said.join(" ").replace('|', "\\|")));
            said.clear();
        }
    }
    fields
}

/// By setting, as Rust shows them.
fn defaults() -> BTreeMap<String, String> {
    let shown = format!("{:#?}", Settings::default());
    let lines = shown.lines().filter_map(|line| line.trim().trim_end_matches(',').split_once(": "));
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn the_page_has_every_key_of_the_cluster_file() {
    let (source, defaults) = (source(), defaults());
    let mut page = HEAD.to_owned();
    for (name, title) in PARTS {
        let fields = fields(&source, name);
        assert!(fields.len() >= 2 && fields.iter().all(|(_, said)| !said.is_empty()), "{name}: {fields:?}");
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
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cluster-file.md");
    if std::env::var_os("PALISADE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("make the directory");
        std::fs::write(&path, &page).expect("write the page");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        kept, page,
        "a key or its documentation has changed: look, and write the page anew (see the head of this test)"
    );
}
