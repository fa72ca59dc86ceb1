//! The files of the console: complete, and without what the policy of content forbids.

use palisade_console::{FILES, HEADERS, file};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn text(path: &str) -> &'static str {
    let file = file(path).unwrap_or_else(|| panic!("{path} is served"));
    std::str::from_utf8(file.bytes).unwrap_or_else(|_| panic!("{path} is UTF-8"))
}

/// The texts between `before` and the next quote.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[test]
fn every_file_is_served_once() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("files");
    let kept: BTreeSet<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".json") && !name.ends_with(".d.ts"))
        .collect();
    let name = |path: &str| match path {
        "/" => "index.html".to_owned(),
        path => path.strip_prefix("/console/").unwrap().to_owned(),
    };
    let served: BTreeSet<String> = FILES.iter().map(|file| name(file.path)).collect();
    assert_eq!(served, kept);
    assert_eq!(FILES.len(), served.len(), "no path twice");
}

#[test]
fn a_page_names_only_files_that_are_served() {
    let page = text("/");
    let named = [quoted(page, "src=\""), quoted(page, " href=\"")].concat();
    let files: Vec<_> = named.iter().filter(|path| !path.starts_with('#')).collect();
    assert!(files.len() >= 3, "{files:?}");
    for path in files {
        assert!(file(&format!("/{path}")).is_some(), "{path}");
    }
    let mut imports = 0;
    for module in FILES.iter().filter(|file| file.path.ends_with(".js")) {
        for name in quoted(text(module.path), " from \"") {
            let path = format!("/console/{}", name.strip_prefix("./").unwrap());
            assert!(file(&path).is_some(), "{} imports {name}", module.path);
            imports += 1;
        }
    }
    assert!(imports > 20, "{imports} imports were found");
}

/// Names, owners and metadata of locks are written by any client. Text that becomes markup would
/// run in the page of an operator.
#[test]
fn no_text_becomes_markup() {
    for module in FILES.iter().filter(|file| file.path.ends_with(".js")) {
        for forbidden in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
        {
            assert!(!text(module.path).contains(forbidden), "{}: {forbidden}", module.path);
        }
    }
    let page = text("/");
    for inline in ["<style", " style=\"", "onclick", "javascript:"] {
        assert!(!page.contains(inline), "the policy of content forbids {inline}");
    }
    assert!(
        page.matches("<script").count() == page.matches("<script type=\"module\" src=").count()
    );
}

#[test]
fn the_headers_permit_nothing_of_other_origins() {
    let policy = HEADERS.iter().find(|(name, _)| *name == "content-security-policy").unwrap().1;
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    for rule in policy.split("; ") {
        let (_, sources) = rule.split_once(' ').unwrap();
        for source in sources.split(' ') {
            assert!(["'none'", "'self'", "data:"].contains(&source), "{rule}");
        }
    }
}

#[test]
fn other_content_has_another_tag() {
    let tags: BTreeSet<String> = FILES.iter().map(|file| file.etag()).collect();
    assert_eq!(tags.len(), FILES.len());
    assert_eq!(file("/").unwrap().etag(), file("/").unwrap().etag());
}
