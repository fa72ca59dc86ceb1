//! `palisade policy` as a program: its answers, its exit codes, and the files that it writes; and
//! the refusal to serve other machines unprotected.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

fn palisade(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_palisade")).args(args).output().expect("run palisade")
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn a_policy_is_checked_and_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("policy.yaml");
    let policy = "roles: { payments: { hold: [\"payment:\"] } }\n\
                  bindings: [{ identities: [alice], roles: [payments] }]\n";
    std::fs::write(&file, policy).expect("a file");
    let check =
        |rest: &[&str]| said(&palisade(&[&["policy", "check", text(&file)][..], rest].concat()));
    assert_eq!(check(&[]).0, Some(0));
    let (code, out, _) = check(&["--as", "alice", "--can", "hold", "payment:1"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("yes: binding 1 (alice) gives role payments"), "{out}");
    let (code, out, _) = check(&["--as", "alice", "--can", "hold", "orders:1"]);
    assert_eq!(code, Some(5));
    assert!(out.starts_with("no: the roles of alice (payments) may hold only"), "{out}");
    let (code, out, _) = check(&["--as", "bob", "--can", "observe"]);
    assert_eq!((code, out.as_str()), (Some(5), "no: no binding with a role matches bob\n"));
    let (code, _, error) = check(&["--as", "bob", "--can", "observe", "x"]);
    assert_eq!(code, Some(2), "{error}");
    assert_eq!(check(&["--as", "alice"]).0, Some(2), "half a question");
    assert_eq!(check(&["--as", "alice", "--can", "hodl"]).0, Some(2), "no such verb");

    std::fs::write(&file, policy.replace("hold", "hodl")).expect("a file");
    let (code, _, error) = check(&["--as", "alice", "--can", "hold"]);
    assert_eq!(code, Some(2));
    assert!(error.contains("did you mean `hold`?"), "{error}");
    assert_eq!(said(&palisade(&["policy", "check", "/nowhere"])).0, Some(2));
}

#[test]
fn a_token_is_printed_once_and_its_hash_is_added() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("tokens.yaml");
    let token = |rest: &[&str]| {
        let args = ["policy", "token", "--file", text(&file)];
        said(&palisade(&[&args[..], rest].concat()))
    };
    let (code, first, error) = token(&["bob"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(first.starts_with("plk_") && first.trim_end().len() == 47, "{first}");
    let mode = || std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let read = || std::fs::read_to_string(&file).expect("the file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("a mode");
    let (code, second, _) = token(&["spiffe://corp/ci", "--expires", "90d"]);
    assert_eq!((code, mode()), (Some(0), 0o640), "another mode stays");
    assert_ne!(first, second);
    let kept = read();
    assert!(!kept.contains(first.trim()) && !kept.contains(second.trim()), "{kept}");
    assert!(kept.contains("spiffe://corp/ci") && kept.contains("expires: "), "{kept}");
    assert_eq!(access::Tokens::parse(&kept).expect("a tokens file").len(), 2);
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 1, "no other file");

    assert_eq!(token(&["anonymous"]).0, Some(2));
    assert_eq!(token(&[""]).0, Some(2));
    assert_eq!(token(&["bob", "--expires", "0s"]).0, Some(2));
    assert_eq!(read(), kept, "a refusal writes nothing");
    std::fs::write(&file, first.trim()).expect("a file");
    let (code, out, error) = token(&["bob"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(!error.contains(first.trim()), "{error}");
}

#[test]
fn the_hash_of_a_token_is_the_one_that_revokes_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("token");
    let hash = |token: &str| {
        std::fs::write(&file, token).expect("a file");
        said(&palisade(&["policy", "hash", text(&file)]))
    };
    let of = |text: &str| format!("sha256:{}\n", access::Digest::of(text.as_bytes()));
    assert_eq!(hash("plk_x\n"), (Some(0), of("plk_x"), String::new()));
    assert_eq!(hash("header.claims.signature"), (Some(0), of("header.claims"), String::new()));
    for bad in
        ["", "secret", "Bearer plk_secret", "secret.claims", "secret.claims.", "plk_a secret"]
    {
        let (code, out, error) = hash(bad);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{bad}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    // Standard input is read without a file. Here it is empty.
    assert_eq!(said(&palisade(&["policy", "hash"])).0, Some(2));
    assert_eq!(said(&palisade(&["policy", "hash", "/nowhere"])).0, Some(1));
}

#[test]
fn a_server_listens_beyond_this_machine_only_if_that_is_safe_or_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("cluster.yaml");
    let cluster =
        "cluster: c\nshards: 1\nreplicas: 1\nnodes: [{ id: 1, address: \"192.0.2.1:7411\" }]\n";
    std::fs::write(&file, cluster).expect("a file");
    let (config, data) = (text(&file), dir.path().join("data"));
    for (args, missing) in [
        (
            vec!["gateway", "--config", config, "--listen", "0.0.0.0:0"],
            "`tls.clients` and `access`",
        ),
        (vec!["node", "--config", config, "--id", "1", "--data-dir", text(&data)], "`tls.inside`"),
        (vec!["dev", "--listen", "0.0.0.0:0"], "TLS and identities"),
    ] {
        let (code, _, error) = said(&palisade(&args));
        assert_eq!(code, Some(2), "{args:?}: {error}");
        assert!(error.contains(missing) && error.contains("--insecure"), "{args:?}: {error}");
    }
    assert!(!data.exists(), "nothing was written");
    // With the word it goes on, to the next thing that is wrong: no machine here has the address.
    let node = ["node", "--config", config, "--id", "1", "--insecure", "--data-dir", text(&data)];
    let (code, _, error) = said(&palisade(&node));
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("warning: --insecure: the node listens on 192.0.2.1:7411"), "{error}");
}
