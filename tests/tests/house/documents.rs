//! Checks the Markdown documents as a whole.
//!
//! * A relative link leads to an existing file, and its anchor to a heading of that file.
//! * No page contains a merge conflict.
//! * A message that `docs/operate/troubleshooting.md` quotes exists in the programs.
//! * A metric that `docs/operate/monitoring.md` names exists in the programs.
//! * The names in `docs/guide/sessions.md` have the shards that the page says.
//!
//! Links to other sites are not followed.

use routing::ClusterConfig;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Directories without documents of this project.
const SKIPPED: &[&str] = &["target", ".git", "node_modules"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the repository's root")
}

/// Finds all Markdown files below `dir`.
fn documents(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
        let path = entry.expect("a directory entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !SKIPPED.contains(&name) {
                documents(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a page outside of its code fences.
fn outside_fences(page: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            lines.push(line);
        }
    }
    lines
}

/// The text of a page without fences and `code`, because `[x](y)` is no link there.
fn text(page: &str) -> String {
    let page = outside_fences(page).join("\n");
    page.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The targets of all links `[label](target)`.
fn targets(page: &str) -> Vec<String> {
    let text = text(page);
    let after = text.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchors of the headings, as GitHub makes them: `## One, two` is `one-two`, and the second
/// heading of a name ends in `-1`.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for line in outside_fences(page).iter().filter(|line| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor = kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>();
        let again = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone()).chain(again).find(|name| !found.contains(name));
        found.insert(free.expect("an endless supply of numbers"));
    }
    found
}

/// The fault of a link of the page at `path`, if there is one.
fn fault(path: &Path, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) =
        target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let file = match file {
        "" => path.to_owned(),
        _ => path.parent().expect("a file's directory").join(file),
    };
    if !file.exists() {
        return Some("there is no such file".to_owned());
    }
    let anchor = anchor?;
    if file.extension().is_none_or(|extension| extension != "md")
        || anchors(&read(&file)).contains(anchor)
    {
        return None;
    }
    Some("that page has no such heading".to_owned())
}

#[test]
fn relative_links_lead_somewhere() {
    let root = root();
    let mut paths = Vec::new();
    documents(&root, &mut paths);
    let mut links = 0;
    let mut dead = Vec::new();
    for path in &paths {
        for target in targets(&read(path)) {
            links += 1;
            if let Some(why) = fault(path, &target) {
                let page = path.strip_prefix(&root).expect("a page below the root").display();
                dead.push(format!("{page}: ({target}): {why}"));
            }
        }
    }
    assert!(links > 20, "{links} links in {} pages: the pages were not read", paths.len());
    assert!(dead.is_empty(), "dead links:\n{}", dead.join("\n"));
}

#[test]
fn no_page_has_a_conflict_left() {
    let mut paths = Vec::new();
    documents(&root(), &mut paths);
    let marked = |line: &str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
    let left: Vec<&PathBuf> = paths.iter().filter(|path| read(path).lines().any(marked)).collect();
    assert!(left.is_empty(), "conflicts are left in {left:?}");
}

/// Adds the Rust sources below `dir` to `text`. String literals that `\` continues on the next line
/// are joined.
fn sources(dir: &Path, text: &mut String) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
    {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = read(&path);
            let mut parts = source.split("\\\n");
            text.push_str(parts.next().unwrap_or_default());
            parts.for_each(|part| text.push_str(part.trim_start()));
        }
    }
}

/// The messages that the page quotes: in backticks, several words, at the start of a table's row.
fn quoted(page: &str) -> Vec<&str> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once('`'))
        .map(|(message, _)| message)
        .filter(|text| text.contains(' '))
        .collect()
}

#[test]
fn quoted_messages_are_in_the_programs() {
    let mut programs = String::new();
    for dir in ["crates", "tools"] {
        for entry in std::fs::read_dir(root().join(dir)).expect("the crates") {
            sources(&entry.expect("a crate").path().join("src"), &mut programs);
        }
    }
    let page = read(&root().join("docs/operate/troubleshooting.md"));
    let messages = quoted(&page);
    assert!(messages.len() > 15, "{} messages: the page was not read", messages.len());
    let unknown: Vec<&&str> =
        messages.iter().filter(|message| !programs.contains(**message)).collect();
    assert!(
        unknown.is_empty(),
        "docs/operate/troubleshooting.md quotes messages that no program has: {unknown:#?}"
    );
}

/// The metrics that the page names.
fn metrics(page: &str) -> BTreeSet<&str> {
    let words = page.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
    words
        .filter(|word| {
            word.starts_with("palisade_") && *word != "palisade_" && *word != "palisade_gateway_"
        })
        .collect()
}

#[test]
fn metrics_of_the_monitoring_page_are_in_the_programs() {
    let (mut node, mut gateway) = (String::new(), String::new());
    sources(&root().join("crates/node/src/metrics"), &mut node);
    sources(&root().join("crates/gateway/src"), &mut gateway);
    let page = read(&root().join("docs/operate/monitoring.md"));
    let named = metrics(&page);
    assert!(named.len() > 30, "{} metrics: the page was not read", named.len());
    let is_known = |name: &str| match name.strip_prefix("palisade_gateway_") {
        Some(name) => gateway.contains(&format!("\"{name}\"")),
        None => node.contains(&format!("\"{name}\"")),
    };
    let unknown: Vec<&str> = named.into_iter().filter(|name| !is_known(name)).collect();
    assert!(
        unknown.is_empty(),
        "docs/operate/monitoring.md names metrics that no program has: {unknown:?}"
    );
}

#[test]
fn shards_of_the_page_on_sessions_fit_its_names() {
    let page = read(&root().join("docs/guide/sessions.md"));
    let map = ClusterConfig::dev(4, 3, 7400).expect("as `palisade dev`").shard_map();
    let mut shards = BTreeSet::new();
    for line in page.lines().filter_map(|line| line.strip_prefix("palisade acquire ")) {
        let (name, _) = line.split_once(' ').expect("a name");
        let (_, shard) = line.rsplit_once("prints the shard: ").expect("a shard");
        assert_eq!(map.route(name).shard.to_string(), shard, "{name}");
        shards.insert(shard);
    }
    let named = Vec::from_iter(shards).join(",");
    for verb in ["heartbeat", "close"] {
        let line = format!("palisade session {verb} ID --shards {named}\n");
        assert!(page.contains(&line), "the page lacks: {line}");
    }
}

#[test]
fn dead_links_are_found() {
    let page = root().join("README.md");
    assert_eq!(fault(&page, "https://example.com/missing"), None);
    assert_eq!(fault(&page, "ARCHITECTURE.md#the-crates"), None);
    assert!(fault(&page, "docs/no-such-page.md").is_some());
    assert!(fault(&page, "ARCHITECTURE.md#no-such-heading").is_some());
    assert!(fault(&page, "#no-such-heading").is_some());
}

#[test]
fn links_and_anchors_are_read_as_markdown_has_them() {
    let page = "# A b\n[one](x.md) and `[no](y.md)`\n```\n[no](z.md)\n# no\n```\n## A `b`!\n[two\nlines](#a-b)\n";
    assert_eq!(targets(page), ["x.md", "#a-b"]);
    assert_eq!(anchors(page), BTreeSet::from(["a-b".to_owned(), "a-b-1".to_owned()]));
}
