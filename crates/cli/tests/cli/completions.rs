//! Completions for shells, and the pages of the manual.

use std::path::Path;
use std::process::Command;

fn palisade(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_palisade")).args(args).output();
    let output = output.expect("start palisade");
    assert!(output.status.success(), "palisade {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn every_shell_gets_the_verbs_and_none_that_is_hidden() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = palisade(&["completions", shell]);
        for verb in ["acquire", "heartbeat", "listen-metrics"] {
            assert!(script.contains(verb), "{shell} lacks {verb}");
        }
        for hidden in ["__guard", "__exec", "at-start"] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
    }
}

#[test]
fn bash_completes_verbs_options_and_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let script = dir.path().join("palisade");
    std::fs::write(&script, palisade(&["completions", "bash"])).expect("write the script");
    std::fs::write(dir.path().join("cluster.yaml"), "").expect("write a file");
    // As bash does it at a press of the tab key: the words, and the number of the one to complete.
    let complete = |words: &[&str]| {
        let last = words.len() - 1;
        let line = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={last}; _palisade palisade '{}' '{}'; echo ${{COMPREPLY[@]}}",
            script.display(),
            words.join(" "),
            words[last],
            words[last - 1]
        );
        let output = Command::new("bash").args(["-c", &line]).output().expect("start bash");
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    assert_eq!(complete(&["palisade", "clu"]), "cluster");
    assert_eq!(complete(&["palisade", "cluster", "st"]), "status");
    assert_eq!(complete(&["palisade", "node", "--gu"]), "--guard-file");
    let begun = dir.path().join("clus").display().to_string();
    let file = dir.path().join("cluster.yaml").display().to_string();
    assert_eq!(complete(&["palisade", "node", "--config", &begun]), file);
}

#[test]
fn each_verb_has_a_page_of_the_manual() {
    let dir = tempfile::tempdir().expect("a directory");
    let pages = dir.path().join("man1");
    palisade(&["man", &pages.display().to_string()]);
    let page = |name: &str| {
        std::fs::read_to_string(pages.join(Path::new(name)))
            .unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    assert!(page("palisade.1").contains("palisade\\-session(1)"));
    assert!(page("palisade-session-open.1").contains(".TH palisade-session-open 1"));
    assert!(page("palisade-node.1").contains("Re\\-seeding"), "the long help is in it");
    let all = std::fs::read_dir(&pages).expect("the pages").count();
    let documented = include_str!("../../../../docs/reference/command-line.md");
    assert_eq!(all, documented.matches("\n## `").count(), "one for each verb of the reference");
}
