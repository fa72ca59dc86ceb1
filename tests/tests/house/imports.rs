//! No circles of imports among the files of a crate, so that each crate can be read in one
//! direction.
//!
//! # The rule
//!
//! File A imports file B if A names an item of B by a path, in a `use` or in code: from `crate`,
//! `super`, `self`, a child module, or a module that A has imported. A chain of imports that comes
//! back to its first file is a circle.
//!
//! * **A parent and its children** are no exception. A directory reads in one of two directions:
//!   `mod.rs` composes its children and they do not name it, or the children add methods to the
//!   type of `mod.rs` and it does not name them. For example, `replica/ready.rs` says `impl
//!   Replica`, and `replica/mod.rs` only says `mod ready;`, which is no import.
//! * **A re-export** (`pub use child::Item`) is a signpost and no import. A path that goes through
//!   it counts as an import of the file that has the item.
//! * **Tests** may import anything: `#[cfg(test)]` modules are left out.
//!
//! This reads tokens, not types. It does not see calls of methods, paths that a macro builds, or
//! names that come with `use super::*`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module's path from the root of its crate. It is empty for the root itself.
type ModulePath = Vec<String>;

/// One name of a `use`.
#[derive(Clone, Debug)]
struct Import {
    /// The path as written, with `*` at the end of a glob.
    path: Vec<String>,
    /// The name that it binds here. A glob has `*`.
    name: String,
    is_public: bool,
}

/// The declarations of one module, and the paths that it names.
#[derive(Debug, Default)]
struct Module {
    file: String,
    items: BTreeSet<String>,
    children: BTreeSet<String>,
    imports: Vec<Import>,
    /// The paths in code, without those of `use`.
    mentions: Vec<Vec<String>>,
}

/// All modules of one crate.
#[derive(Debug, Default)]
struct Modules(BTreeMap<ModulePath, Module>);

/// Splits Rust text into words, `::`, and single characters, without comments, strings and
/// attributes.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let starts = |at: usize, what: &str| {
        what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(&c) = chars.get(at) {
        // `r"…"`, `br#"…"#`: the prefix was read as a word.
        let is_raw =
            found.last().is_some_and(|word| ["r", "br", "cr"].contains(&String::as_str(word)));
        let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
        if starts(at, "//") {
            at += chars[at..].iter().take_while(|c| **c != '\n').count();
        } else if starts(at, "/*") {
            while at < chars.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if is_raw && chars.get(at + hashes) == Some(&'"') && (c == '"' || c == '#') {
            let end = format!("\"{}", "#".repeat(hashes));
            at += hashes + 1;
            while at < chars.len() && !starts(at, &end) {
                at += 1;
            }
            at += end.len();
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\''
            && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\''))
        {
            at += 2 + usize::from(chars[at + 1] == '\\');
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if is_word(c) {
            let word: String = chars[at..].iter().take_while(|c| is_word(**c)).collect();
            at += word.chars().count();
            found.push(word);
        } else if starts(at, "::") {
            found.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                found.push(c.to_string());
            }
            at += 1;
        }
    }
    found
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "{" | "[" | "(" => depth += 1,
            "}" | "]" | ")" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// Reads a use tree, `a::{b, c::*}`, and returns where it ends.
fn use_tree(
    tokens: &[String],
    mut at: usize,
    before: &[String],
    is_public: bool,
    found: &mut Vec<Import>,
) -> usize {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = use_tree(tokens, at, &path, is_public, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            Some("::") => at += 1,
            Some(word) if word != ";" && word != "," && word != "}" && word != "as" => {
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                at += 1;
            }
            other => {
                let renamed = (other == Some("as")).then(|| tokens[at + 1].clone());
                at += if renamed.is_some() { 2 } else { 0 };
                let name = renamed.or_else(|| path.last().cloned()).unwrap_or_default();
                found.push(Import { path, name, is_public });
                return at;
            }
        }
    }
}

impl Modules {
    /// Reads a crate from its root file.
    fn of_crate(root: &Path) -> Modules {
        let mut modules = Modules::default();
        modules.read_file(root, root.parent().expect("in a directory"), Vec::new());
        modules
    }

    /// Reads a file. Its child modules are in `dir`.
    fn read_file(&mut self, file: &Path, dir: &Path, path: ModulePath) {
        let text = std::fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.read_tokens(&tokens(&text), &file.display().to_string(), dir, path);
    }

    fn read_tokens(&mut self, tokens: &[String], file: &str, dir: &Path, path: ModulePath) {
        let mut module = Module { file: file.to_owned(), ..Module::default() };
        let (mut at, mut depth, mut is_test, mut is_public) = (0, 0, false, false);
        while let Some(token) = tokens.get(at) {
            let next = |n: usize| tokens.get(at + n).map_or("", String::as_str);
            match token.as_str() {
                "#" if next(1) == "[" || next(2) == "[" => {
                    let end = closing(tokens, at + if next(1) == "[" { 1 } else { 2 });
                    is_test |= tokens[at..end].join("").contains("cfg(test)");
                    at = end + 1;
                    continue;
                }
                "pub" => {
                    is_public = true;
                    at = if next(1) == "(" { closing(tokens, at + 1) + 1 } else { at + 1 };
                    continue;
                }
                "mod" if depth == 0 => {
                    let (name, body) = (next(1).to_owned(), next(2) == "{");
                    let end = if body { closing(tokens, at + 2) } else { at + 2 };
                    let child: ModulePath = path.iter().cloned().chain([name.clone()]).collect();
                    let below = dir.join(&name);
                    if !is_test && body {
                        self.read_tokens(&tokens[at + 3..end], file, &below, child);
                    } else if !is_test {
                        let files = [dir.join(format!("{name}.rs")), below.join("mod.rs")];
                        // A file in another place (`#[path]`) is shared between crates, and left
                        // out.
                        if let Some(file) = files.iter().find(|file| file.exists()) {
                            self.read_file(file, &below, child);
                        }
                    }
                    if !is_test {
                        module.children.insert(name);
                    }
                    at = end + 1;
                }
                "use" if depth == 0 || next(1) != "<" => {
                    let mut found = Vec::new();
                    at = use_tree(tokens, at + 1, &[], is_public, &mut found);
                    if !is_test {
                        module.imports.extend(found);
                    }
                }
                // These are the braces of an item for tests only.
                "{" if is_test && depth == 0 => at = closing(tokens, at) + 1,
                "{" => (depth, at) = (depth + 1, at + 1),
                "}" => (depth, at) = (depth - 1, at + 1),
                "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static"
                    if depth == 0 =>
                {
                    let skipped = ["unsafe", "extern", "mut", "fn"]
                        .iter()
                        .filter(|word| next(1) == **word)
                        .count();
                    module.items.insert(next(1 + skipped).to_owned());
                    at += 2 + skipped;
                    // The signature of the item must still be read.
                    if !is_test {
                        continue;
                    }
                    while tokens.get(at).is_some_and(|token| token != "{" && token != ";") {
                        at += 1;
                    }
                    continue;
                }
                _ if next(1) == "::"
                    && tokens.get(at.wrapping_sub(1)).is_none_or(|before| before != "$") =>
                {
                    let mut mention = vec![token.clone()];
                    at += 1;
                    while tokens.get(at).is_some_and(|token| token == "::")
                        && tokens.get(at + 1).is_some_and(|word| {
                            word.chars().all(|c| c.is_alphanumeric() || c == '_')
                        })
                    {
                        mention.push(tokens[at + 1].clone());
                        at += 2;
                    }
                    at += usize::from(tokens.get(at).is_some_and(|token| token == "::"));
                    module.mentions.push(mention);
                    continue;
                }
                _ => at += 1,
            }
            (is_test, is_public) = (false, false);
        }
        self.0.insert(path, module);
    }

    /// The file with the item that a path in the module `from` names. `None` if the item is not in
    /// this crate.
    fn target(&self, from: &ModulePath, path: &[String], hops: usize) -> Option<&str> {
        let (first, mut rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => from.clone(),
            "super" => from.split_last()?.1.to_vec(),
            _ if self.0[from].children.contains(first) => {
                [&from[..], std::slice::from_ref(first)].concat()
            }
            _ => {
                // The name was imported here. A path of one name is skipped, because it was seen at
                // its import.
                let import =
                    self.0[from].imports.iter().find(|import| import.name == *first && hops > 0)?;
                let whole: Vec<String> = import.path.iter().chain(rest).cloned().collect();
                return (whole != path).then(|| self.target(from, &whole, hops - 1)).flatten();
            }
        };
        while let Some((name, after)) = rest.split_first() {
            let module = self.0.get(&at)?;
            if name == "super" {
                at.pop();
            } else if module.children.contains(name) {
                at.push(name.clone());
            } else if module.items.contains(name) || name == "*" || hops == 0 {
                break;
            } else {
                let named = module.imports.iter().filter(|import| import.name == *name);
                let globs = module.imports.iter().filter(|import| import.name == "*");
                let through = named.chain(globs).find_map(|import| {
                    let stem = if import.name == "*" {
                        &import.path[..import.path.len() - 1]
                    } else {
                        &import.path[..]
                    };
                    let last = if import.name == "*" { Some(name) } else { None };
                    let whole: Vec<String> =
                        stem.iter().chain(last).chain(after).cloned().collect();
                    self.has(&at, &whole, hops - 1)
                        .then(|| self.target(&at, &whole, hops - 1))
                        .flatten()
                });
                return through.or(Some(&module.file));
            }
            rest = after;
        }
        self.0.get(&at).map(|module| module.file.as_str())
    }

    /// Whether a path out of the module `from` leads to an item or a module of this crate.
    fn has(&self, from: &ModulePath, path: &[String], hops: usize) -> bool {
        let (Some(last), true) = (path.last(), hops > 0) else { return false };
        let Some(file) = self.target(from, path, hops) else { return false };
        let of_file = self.0.iter().filter(|(_, module)| module.file == file);
        of_file.clone().any(|(_, module)| module.items.contains(last))
            || of_file.clone().any(|(at, _)| at.ends_with(std::slice::from_ref(last)))
            || path.len() > 1 && self.has(from, &path[..path.len() - 1], hops)
    }

    /// The files that each file imports.
    fn imports(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        const HOPS: usize = 8;
        let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (at, module) in &self.0 {
            let signpost = |import: &Import| {
                import.is_public
                    && self.target(at, &import.path, HOPS).is_some_and(|file| {
                        self.0.iter().any(|(path, module)| {
                            module.file == file && path.len() > at.len() && path.starts_with(at)
                        })
                    })
            };
            let imported =
                module.imports.iter().filter(|import| !signpost(import)).map(|import| &import.path);
            let targets =
                imported.chain(&module.mentions).filter_map(|path| self.target(at, path, HOPS));
            let others = targets.filter(|file| *file != module.file);
            found.entry(&module.file).or_default().extend(others);
        }
        found
    }
}

/// The circles: sets of files in which each file leads to all others.
fn circles<'a>(imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reach = |from: &'a str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(file) = open.pop() {
            open.extend(imports.get(file).into_iter().flatten().filter(|next| seen.insert(**next)));
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> =
        imports.keys().map(|file| (*file, reach(file))).collect();
    let circle_of = |file: &'a str| -> BTreeSet<&'a str> {
        reached[file].iter().copied().filter(|other| reached[other].contains(file)).collect()
    };
    imports.keys().map(|file| circle_of(file)).filter(|circle| circle.len() > 1).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The root files of all crates, relative to the repository.
fn crate_roots() -> Vec<PathBuf> {
    let below = |dir: &str| {
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path())
    };
    let dirs = below("crates")
        .chain(below("tools"))
        .chain(["tests", "tests/sim", "tests/chaos", "tests/fuzz", "benches"].map(PathBuf::from));
    let files = dirs.flat_map(|dir| ["src/lib.rs", "src/main.rs"].map(|file| dir.join(file)));
    files.filter(|file| file.exists()).collect()
}

#[test]
fn no_file_imports_itself_in_a_circle() {
    std::env::set_current_dir(root()).expect("the repository");
    let roots = crate_roots();
    assert!(roots.len() > 12, "crates were found: {roots:?}");
    let (mut found, mut edges) = (Vec::new(), 0);
    for root in roots {
        let modules = Modules::of_crate(&root);
        let imports = modules.imports();
        edges += imports.values().map(BTreeSet::len).sum::<usize>();
        for circle in circles(&imports) {
            let inside = |files: &BTreeSet<&str>| {
                files.intersection(&circle).copied().collect::<Vec<_>>().join(", ")
            };
            let edges = circle
                .iter()
                .map(|file| format!("    {file} imports {}\n", inside(&imports[file])));
            found.push(edges.collect::<String>());
        }
    }
    assert!(edges > 300, "imports were found: {edges}");
    assert!(found.is_empty(), "circles of imports:\n{}", found.join("and\n"));
}

/// Builds a crate of these files, and returns the circles in it.
fn circles_of(files: &[(&str, &str)]) -> Vec<Vec<String>> {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let file = dir.path().join(name);
        std::fs::create_dir_all(file.parent().expect("in a directory")).expect("created");
        std::fs::write(file, text).expect("written");
    }
    let modules = Modules::of_crate(&dir.path().join("lib.rs"));
    let imports = modules.imports();
    let name = |file: &&str| file.rsplit('/').next().expect("a name").to_owned();
    circles(&imports).iter().map(|circle| circle.iter().map(name).collect()).collect()
}

#[test]
fn a_circle_is_found_however_its_paths_are_written() {
    let root = ("lib.rs", "mod a;\nmod b;\npub use b::B;\n");
    let b = ("b.rs", "use crate::a::A;\npub struct B(A);\n");
    for a in [
        "use crate::b::B;\npub struct A;",
        "use crate::{b::{B as Other}};\npub struct A;",
        "use super::b::*;\npub struct A;",
        "use super::b;\npub struct A;\nfn f() { b::f(); }",
        "pub struct A;\nfn f() -> Option<crate::b::B> { None }",
        "pub struct A;\nfn f<'a>(_: &'a str, _: crate::B) { let _ = ('\"', r#\"\"#); }",
        "use crate::B; // by the name that the root re-exports\npub struct A;",
    ] {
        assert_eq!(circles_of(&[root, ("a.rs", a), b]), [["a.rs", "b.rs"]], "{a}");
    }
}

#[test]
fn a_parent_imports_its_child_or_is_imported_by_it() {
    let root = ("lib.rs", "mod a;");
    let child = |text| ("a/child.rs", text);
    let parent = |text| ("a/mod.rs", text);
    let up = child("use super::A;\nimpl A { pub(super) fn f(&self) {} }");
    let down = parent("mod child;\nuse child::C;\npub struct A(C);");
    assert_eq!(
        circles_of(&[root, parent("mod child;\npub struct A;\nfn g(a: A) { a.f() }"), up]),
        [[""; 0]; 0]
    );
    assert_eq!(circles_of(&[root, down, child("pub struct C;")]), [[""; 0]; 0]);
    assert_eq!(
        circles_of(&[root, down, child("pub struct C(Option<Box<super::A>>);")]),
        [["child.rs", "mod.rs"]]
    );
}

#[test]
fn tests_comments_strings_and_signposts_are_no_imports() {
    let root = ("lib.rs", "mod a;\nmod b;\npub use a::A;");
    let b = ("b.rs", "use crate::A;\npub struct B(A);");
    for a in [
        "pub struct A;\n#[cfg(test)]\nmod tests { use crate::b::B; }",
        "pub struct A;\n#[cfg(test)]\nuse crate::b::B;",
        "pub struct A;\n#[cfg(test)]\nfn f(_: crate::b::B) { crate::b::f() }",
        "//! See [`crate::b::B`].\n/* crate::b */\npub struct A; // crate::b::B",
        "pub struct A;\nfn f() { g(\"crate::b::B \\\" crate::b::B\", r#\"crate::b::B \" crate::b::B\"#) }",
    ] {
        assert_eq!(circles_of(&[root, ("a.rs", a), b]), [[""; 0]; 0], "{a}");
    }
}
