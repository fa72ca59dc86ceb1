//! `palisade cert`, as a person runs it: what it writes is what its help says, and it overwrites
//! nothing unasked.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::X509Certificate;

const CLUSTER: &str = "
cluster: my prod
shards: 2
replicas: 1
nodes:
  - { id: 1, address: '127.0.0.1:7411' }
  - { id: 3, address: 'node-3.example:7411' }
gateways:
  - { address: '127.0.0.1:7400' }
";

fn cert(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_palisade"));
    command.arg("cert").args(words).current_dir(dir).output().expect("start palisade")
}

fn done(dir: &Path, words: &[&str]) -> String {
    let output = cert(dir, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A directory with both authorities and a cluster file.
fn with_authorities() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary directory");
    std::fs::write(dir.path().join("cluster.yaml"), CLUSTER).expect("write the cluster file");
    done(dir.path(), &["ca", "--dir", "certs"]);
    dir
}

/// Calls `check` with a certificate of the directory.
fn read<T>(dir: &Path, stem: &str, check: impl FnOnce(&X509Certificate<'_>) -> T) -> T {
    let bytes = std::fs::read(dir.join(format!("certs/{stem}.pem"))).expect("a certificate");
    let (_, pem) = parse_x509_pem(&bytes).expect("PEM");
    check(&pem.parse_x509().expect("a certificate"))
}

/// The alternative names of a certificate, as text.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let found = certificate.subject_alternative_name().expect("readable");
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => format!("{bytes:?}"),
        other => format!("{other:?}"),
    };
    found.map(|found| found.value.general_names.iter().map(name).collect()).unwrap_or_default()
}

/// Whether the authority's key signed the certificate.
fn is_signed_by(dir: &Path, stem: &str, authority: &str) -> bool {
    read(dir, authority, |authority| {
        read(dir, stem, |certificate| {
            certificate.verify_signature(Some(authority.public_key())).is_ok()
        })
    })
}

/// What OpenSSL thinks of it, where OpenSSL is installed.
fn openssl_accepts(dir: &Path, stem: &str, authority: &str, purpose: &str) -> Option<bool> {
    let certs = dir.join("certs");
    let checked = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"])
        .arg(certs.join(format!("{authority}.pem")))
        .arg(certs.join(format!("{stem}.pem")))
        .output();
    checked.ok().map(|output| output.status.success())
}

#[test]
fn a_cluster_file_gives_each_process_a_certificate_for_its_role() {
    let dir = with_authorities();
    let told = done(dir.path(), &["issue", "--dir", "certs", "--config", "cluster.yaml"]);
    assert!(told.contains("tls:\n  inside:"), "the next step is named: {told}");
    for (stem, role, purposes) in [
        ("node-1", "palisade://my%20prod/node/1", ["sslserver", "sslclient"]),
        ("node-3", "palisade://my%20prod/node/3", ["sslserver", "sslclient"]),
        ("gateway-gateway", "palisade://my%20prod/gateway/gateway", ["sslserver", "sslclient"]),
    ] {
        read(dir.path(), stem, |certificate| {
            assert_eq!(names(certificate), [role]);
            assert!(certificate.validity().is_valid(), "{stem} is valid now");
            let days = certificate.validity().time_to_expiration().expect("valid").whole_days();
            assert!((364..=365).contains(&days), "{stem}: {days} days");
            assert!(!certificate.is_ca());
        });
        assert!(is_signed_by(dir.path(), stem, "inside-ca"), "{stem}");
        assert!(!is_signed_by(dir.path(), stem, "clients-ca"), "{stem}");
        for purpose in purposes {
            let accepted = openssl_accepts(dir.path(), stem, "inside-ca", purpose);
            assert_ne!(accepted, Some(false), "{stem} as {purpose}");
            let by_other = openssl_accepts(dir.path(), stem, "clients-ca", purpose);
            assert_ne!(by_other, Some(true), "{stem} as {purpose}");
        }
    }
    read(dir.path(), "gateway-gateway-server", |certificate| {
        assert_eq!(names(certificate), ["[127, 0, 0, 1]", "localhost"]);
    });
    assert!(is_signed_by(dir.path(), "gateway-gateway-server", "clients-ca"));
    let as_server =
        openssl_accepts(dir.path(), "gateway-gateway-server", "clients-ca", "sslserver");
    assert_ne!(as_server, Some(false));
}

#[test]
fn an_identity_is_a_uri_or_a_common_name_and_no_server() {
    let dir = with_authorities();
    done(dir.path(), &["issue", "--dir", "certs", "--client", "alice"]);
    done(dir.path(), &["issue", "--dir", "certs", "--client", "spiffe://corp/payments/1"]);
    read(dir.path(), "alice", |certificate| {
        let common_name = certificate.subject().iter_common_name().next().expect("a name");
        assert_eq!(common_name.as_str(), Ok("alice"));
        assert!(names(certificate).is_empty());
    });
    read(dir.path(), "spiffe-corp-payments-1", |certificate| {
        assert_eq!(names(certificate), ["spiffe://corp/payments/1"]);
    });
    for stem in ["alice", "spiffe-corp-payments-1"] {
        assert!(is_signed_by(dir.path(), stem, "clients-ca"), "{stem}");
        let accepts = |purpose| openssl_accepts(dir.path(), stem, "clients-ca", purpose);
        assert_ne!(accepts("sslclient"), Some(false), "{stem}");
        assert_ne!(accepts("sslserver"), Some(true), "{stem} cannot pose as a gateway");
    }
    let too_long = "x".repeat(257);
    for unfit in ["", "a\nb", too_long.as_str()] {
        let refused = cert(dir.path(), &["issue", "--dir", "certs", "--client", unfit]);
        assert_eq!(refused.status.code(), Some(2), "{unfit:?}: {refused:?}");
    }
}

#[test]
fn keys_are_readable_by_their_owner_alone() {
    let dir = with_authorities();
    done(dir.path(), &["issue", "--dir", "certs", "--config", "cluster.yaml"]);
    let mode = |path: &Path| path.metadata().expect("metadata").permissions().mode() & 0o777;
    let mut keys = 0;
    for entry in std::fs::read_dir(dir.path().join("certs")).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|ending| ending == "key") {
            assert_eq!(mode(&path), 0o600, "{}", path.display());
            keys += 1;
        }
    }
    assert_eq!(keys, 6, "two authorities, two nodes, the gateway's two sides");
    assert_eq!(mode(&dir.path().join("certs")), 0o700);
}

#[test]
fn no_file_is_replaced_unless_asked() {
    let dir = with_authorities();
    let all = || -> BTreeSet<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(dir.path().join("certs")).expect("a directory");
        let file = |entry: std::fs::DirEntry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).expect("readable"))
        };
        entries.map(|entry| file(entry.expect("an entry"))).collect()
    };
    let one = ["issue", "--dir", "certs", "--client", "alice"];
    let whole = ["issue", "--dir", "certs", "--config", "cluster.yaml"];
    done(dir.path(), &one);
    done(dir.path(), &whole);
    let before = all();
    for words in [&["ca", "--dir", "certs"][..], &one] {
        let refused = cert(dir.path(), words);
        assert_eq!(refused.status.code(), Some(2), "{words:?}: {refused:?}");
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("--force"), "the next step is named: {told}");
    }
    // A cluster that grew: what is there stays, and what is missing is made.
    let grown = CLUSTER.replace("gateways:", "  - { id: 4, address: 'd:7411' }\ngateways:");
    std::fs::write(dir.path().join("cluster.yaml"), grown).expect("write");
    assert!(done(dir.path(), &whole).contains("kept"));
    let after = all();
    let new: Vec<&str> = after.difference(&before).map(|(name, _)| name.as_str()).collect();
    assert_eq!(new, ["node-4.key", "node-4.pem"]);
    assert!(before.is_subset(&after));
    done(dir.path(), &["issue", "--dir", "certs", "--client", "alice", "--force"]);
    let changed: Vec<String> = all().difference(&after).map(|(name, _)| name.clone()).collect();
    assert_eq!(changed, ["alice.key", "alice.pem"]);
}

#[test]
fn without_authorities_the_error_names_the_verb_that_makes_them() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let failed = cert(dir.path(), &["issue", "--dir", "certs", "--client", "alice"]);
    assert_eq!(failed.status.code(), Some(1));
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(told.contains("palisade cert ca --dir certs"), "{told}");
    assert!(!dir.path().join("certs").exists(), "nothing was written");
}
