//! `palisade dev --secure`: what its greeting says works, and what the policy does not permit does
//! not. The command line is tried as a person uses it, with its exit codes.

use palisade_tests::{eventually, own_group, palisade_binary};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A running cluster. It is killed when it is dropped.
struct Dev {
    child: Child,
    dir: tempfile::TempDir,
    /// Its greeting, up to the commands to try.
    greeting: Vec<String>,
}

impl Dev {
    fn start() -> Dev {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = Command::new(palisade_binary())
            .args(["dev", "--secure", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(dir.path().join("data"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start palisade dev");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut greeting = Vec::new();
        for line in lines.map(|line| line.expect("text")) {
            let is_last = line.starts_with("Ctrl-C");
            greeting.push(line);
            if is_last {
                break;
            }
        }
        Dev { child, dir, greeting }
    }

    fn secure(&self, file: &str) -> PathBuf {
        self.dir.path().join("data/secure").join(file)
    }

    fn endpoint(&self) -> String {
        let first = self.greeting.first().expect("a greeting");
        let rest = first.split(" is ready on ").nth(1).expect("an address");
        rest.split(": ").next().expect("an address").to_owned()
    }

    /// The words of the greeting's command for this name.
    fn command_for(&self, name: &str) -> Vec<String> {
        let line = self.greeting.iter().find(|line| line.contains(&format!(" acquire {name} ")));
        let line = line.unwrap_or_else(|| panic!("no command for {name}: {:?}", self.greeting));
        line.split_whitespace().skip(1).map(str::to_owned).collect()
    }

    /// The options that show who a client is, from the greeting's command for this name.
    fn options_for(&self, name: &str) -> Vec<String> {
        self.command_for(name).split_off(2)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `palisade` without any setting of this user.
fn run(home: &Path, words: &[String]) -> Output {
    let mut command = Command::new(palisade_binary());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PALISADE_")) {
        command.env_remove(name);
    }
    command.args(words).env("XDG_CONFIG_HOME", home).stdin(Stdio::null());
    own_group(&mut command);
    command.output().expect("run palisade")
}

/// The exit code of a verb with these options, and its JSON document.
fn answer(home: &Path, words: &[&str], options: &[String]) -> (i32, serde_json::Value) {
    let mut all: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    all.extend(options.iter().cloned());
    all.push("--json".into());
    let output = run(home, &all);
    let document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{words:?}: {error}: {output:?}"));
    (output.status.code().expect("an exit code"), document)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_gets_in_by_its_proof_and_stays_within_the_policy() {
    let dev = Dev::start();
    let home = tempfile::tempdir().expect("a directory");
    let home = home.path();
    for name in ["a/1", "b/1"] {
        let output = run(home, &dev.command_for(name));
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let (alice, bob) = (dev.options_for("a/1"), dev.options_for("b/1"));
    for (words, options) in [
        (["acquire", "b/2"], &alice),
        (["acquire", "a/2"], &bob),
        (["check", "a/1"], &bob),
        (["history", "b/1"], &alice),
        (["ls", ""], &alice),
        (["session", "open"], &vec!["--endpoint".into(), dev.endpoint()]),
    ] {
        let is_open = options.len() == 2;
        let (code, document) = answer(home, &words, options);
        if is_open {
            // Without TLS, nothing is even asked.
            assert_eq!(code, 1, "{document}");
            let message = document["error"]["message"].to_string();
            assert!(message.contains("--ca"), "it says what is missing: {message}");
        } else {
            assert_eq!((code, &document["error"]["code"]), (5, &"PERMISSION_DENIED".into()));
            assert!(document["error"]["next"].as_str().is_some_and(|next| !next.is_empty()));
        }
    }
    // TLS without an identity.
    let nameless: Vec<String> = alice[..4].to_vec();
    assert!(nameless.contains(&"--ca".to_owned()), "{nameless:?}");
    let (code, document) = answer(home, &["acquire", "a/3"], &nameless);
    assert_eq!((code, &document["error"]["code"]), (5, &"UNAUTHENTICATED".into()));

    // `lock` takes the same options, and its command does not run unless the lock is held.
    let lock = |name: &str, marker: &Path| {
        let mut words = vec!["lock".to_owned(), name.to_owned()];
        words.extend(alice.iter().cloned());
        words.extend(["--", "touch"].map(str::to_owned));
        words.push(marker.display().to_string());
        run(home, &words).status.code()
    };
    let (ran, refused) = (home.join("ran"), home.join("refused"));
    assert_eq!((lock("a/4", &ran), ran.exists()), (Some(0), true));
    assert_eq!((lock("b/4", &refused), refused.exists()), (Some(5), false));

    // A profile spares the options.
    std::fs::create_dir(home.join("palisade")).expect("made");
    let (endpoint, secure) = (dev.endpoint(), dev.secure(""));
    let profile = format!(
        "profiles:\n  bob: {{ endpoint: '{endpoint}', ca: {0}ca.pem, token_file: {0}bob.token }}\n",
        secure.display()
    );
    std::fs::write(home.join("palisade/config.yaml"), profile).expect("written");
    let (code, document) = answer(home, &["check", "b/1", "--profile", "bob"], &[]);
    assert_eq!((code, &document["state"]), (0, &"ACQUIRED".into()), "{document}");

    // A changed policy is taken while the cluster runs.
    let policy = std::fs::read_to_string(dev.secure("policy.yaml")).expect("the policy");
    let wider =
        policy.replace("identities: [alice], roles: [a]", "identities: [alice], roles: [a, b]");
    assert_ne!(wider, policy);
    std::fs::write(dev.secure("policy.yaml"), wider).expect("written");
    eventually("alice may use b", async || {
        let (code, _) = answer(home, &["acquire", "b/5"], &alice);
        (code == 0).then_some(())
    })
    .await;

    // The audit log has the refusals and no secret.
    let audit = std::fs::read_to_string(dev.secure("audit-gateway-gateway.log")).expect("a log");
    assert!(audit.contains("\"denied\"") && audit.contains("\"alice\""), "{audit}");
    let token = std::fs::read_to_string(dev.secure("bob.token")).expect("a token");
    assert!(!audit.contains(token.trim()), "the token is in the audit log");
}
