//! `palisade cert`: the certificates of a cluster and of its clients, for operators without an
//! authority of their own.
//!
//! The command writes files and names them. It never overwrites a file unasked, and talks to no
//! process.

pub mod authority;
pub mod files;

use crate::args::{Cert, CertCa, CertIssue};
use crate::cluster_file;
use crate::failure::{Exit, Failure};
use crate::output::{Paint, emit};
use crate::shown::shown;
use authority::{Authority, NotIssued, Signer, Subject};
use files::{FileError, PairPaths};
use routing::{Address, ClusterConfig};
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

/// Longest identity of a client, in bytes.
const IDENTITY_BYTES_MAX: usize = 256;

/// Runs one of the certificate verbs.
///
/// # Errors
/// If a file is there already, cannot be read or written, or a name cannot stand in a certificate.
pub fn run(verb: &Cert) -> Result<(), Failure> {
    match verb {
        Cert::Ca(args) => ca(args),
        Cert::Issue(args) => issue(args),
    }
}

fn ca(args: &CertCa) -> Result<(), Failure> {
    let both = Authority::ALL.map(|authority| PairPaths::new(&args.dir, authority.stem()));
    if !args.force {
        both.iter().try_for_each(refuse_to_replace)?;
    }
    for (authority, paths) in Authority::ALL.into_iter().zip(&both) {
        let pair = authority::make(authority, args.days, SystemTime::now()).map_err(not_made)?;
        paths.write(&pair)?;
        wrote(paths);
    }
    let dir = args.dir.display();
    next(&format!("palisade cert issue --dir {dir} --config cluster.yaml"));
    next(&format!("keep {dir}/*-ca.key off the machines of the cluster"));
    Ok(())
}

fn issue(args: &CertIssue) -> Result<(), Failure> {
    let config = args.config.as_deref().map(cluster_file::load).transpose()?;
    let subjects = subjects(args, config.as_ref())?;
    let paths = |subject: &Subject| PairPaths::new(&args.dir, &subject.stem());
    // Only a run over the whole cluster file keeps files: it is repeated when the cluster grows.
    let keeps = subjects.len() > 1 || is_for_all(args);
    if !keeps && !args.force {
        subjects.iter().map(paths).try_for_each(|paths| refuse_to_replace(&paths))?;
    }
    for authority in Authority::ALL {
        let signed = |subject: &&Subject| subject.authority() == authority;
        let mut wanted = subjects.iter().filter(signed).peekable();
        if wanted.peek().is_none() {
            continue;
        }
        let signer = signer(&args.dir, authority)?;
        for subject in wanted {
            let paths = paths(subject);
            if paths.exist() && !args.force {
                emit(&format!(
                    "{} {}: it is there (--force replaces it)",
                    Paint::stdout().dim("kept"),
                    shown(&paths.certificate.display().to_string())
                ));
                continue;
            }
            let pair = signer.issue(subject, args.days, SystemTime::now()).map_err(not_made)?;
            paths.write(&pair)?;
            wrote(&paths);
        }
    }
    next_steps(args, config.as_ref(), &subjects);
    Ok(())
}

fn is_for_all(args: &CertIssue) -> bool {
    args.node.is_none() && args.gateway.is_none() && args.client.is_none() && args.server.is_empty()
}

/// The owners of the certificates that the command line asks for.
fn subjects(args: &CertIssue, config: Option<&ClusterConfig>) -> Result<Vec<Subject>, Failure> {
    if let Some(identity) = &args.client {
        if identity.len() > IDENTITY_BYTES_MAX || identity.contains(char::is_control) {
            return Err(unfit("an identity has 1 to 256 bytes, and no control characters"));
        }
        return named(Subject::Client(identity.clone()));
    }
    if let Some(first) = args.server.first() {
        return named(Subject::Server { name: first.clone(), hosts: args.server.clone() });
    }
    let config = config.ok_or_else(|| unfit("nodes and gateways need --config"))?;
    if let Some(id) = args.node {
        if config.node(routing::NodeId(id)).is_none() {
            return Err(unfit(&format!("the cluster file has no node {id}")));
        }
        return Ok(vec![Subject::node(&config.cluster, id)]);
    }
    if let Some(name) = &args.gateway {
        return named(Subject::gateway(&config.cluster, name));
    }
    let mut subjects: Vec<Subject> =
        config.nodes.iter().map(|node| Subject::node(&config.cluster, node.id.0)).collect();
    for (gateway, name) in config.gateways.iter().zip(gateway_names(config)) {
        let inside = Subject::gateway(&config.cluster, &name);
        let server = format!("{}-server", inside.stem());
        subjects.push(inside);
        match dialled_hosts(&gateway.address) {
            Some(hosts) => subjects.push(Subject::Server { name: server, hosts }),
            None => emit(&format!(
                "{} {server}: the address {} is no host that clients dial; name them with \
                 `palisade cert issue --server HOST`",
                Paint::stdout().dim("left out"),
                shown(&gateway.address)
            )),
        }
    }
    Ok(subjects)
}

/// A subject with a name that gives a file name.
fn named(subject: Subject) -> Result<Vec<Subject>, Failure> {
    match subject.stem().is_empty() {
        true => Err(unfit("the name has no letter or digit that a file could be named after")),
        false => Ok(vec![subject]),
    }
}

/// The names of the gateways of a cluster file. `palisade gateway` has the name `gateway` unless it
/// is started with another.
pub fn gateway_names(config: &ClusterConfig) -> Vec<String> {
    match config.gateways.len() {
        1 => vec!["gateway".into()],
        several => (1..=several).map(|number| number.to_string()).collect(),
    }
}

/// The hosts of a gateway's address for clients. `None` if it listens on every address.
fn dialled_hosts(address: &str) -> Option<Vec<String>> {
    let host = host_of(address)?;
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => None,
        Ok(ip) if ip.is_loopback() => Some(vec![host, "localhost".into()]),
        _ => Some(vec![host]),
    }
}

/// The hosts that clients of this machine may dial for a gateway's address.
pub fn gateway_hosts(address: &str) -> Vec<String> {
    let mut hosts = dialled_hosts(address).unwrap_or_default();
    for local in ["127.0.0.1", "localhost"].map(str::to_owned) {
        if !hosts.contains(&local) {
            hosts.push(local);
        }
    }
    hosts
}

/// The host of `host:port`, without the brackets of IPv6.
fn host_of(address: &str) -> Option<String> {
    address.parse::<Address>().ok()?;
    let (host, _) = address.trim().rsplit_once(':')?;
    Some(host.trim_start_matches('[').trim_end_matches(']').to_owned())
}

fn signer(dir: &Path, authority: Authority) -> Result<Signer, Failure> {
    let paths = PairPaths::new(dir, authority.stem());
    let next = format!("make the authorities with `palisade cert ca --dir {}`", dir.display());
    let pair = paths
        .read()
        .map_err(|error| Failure::new(Exit::Error, "CERTIFICATE", error.to_string(), &next))?;
    Signer::of(&pair).map_err(|error| {
        let (certificate, key) = (paths.certificate.display(), paths.key.display());
        let message = format!("{certificate} and {key} are no authority that can sign: {error}");
        Failure::new(Exit::Error, "CERTIFICATE", message, next)
    })
}

fn next_steps(args: &CertIssue, config: Option<&ClusterConfig>, subjects: &[Subject]) {
    let dir = args.dir.display();
    match subjects {
        [subject @ Subject::Client(_)] => {
            let paths = PairPaths::new(&args.dir, &subject.stem());
            next(&format!(
                "palisade ls --ca {dir}/{}.pem --cert {} --key {}",
                Authority::Clients.stem(),
                paths.certificate.display(),
                paths.key.display()
            ));
        }
        [Subject::Server { name, .. }] => {
            next(&format!(
                "name {dir}/{name}.pem and .key under `tls.clients` of the cluster file"
            ));
        }
        _ if config.is_some_and(|config| config.tls.is_none()) => {
            next("add this to the cluster file, with paths from its directory:");
            emit(&format!(
                "tls:\n  inside: {{ cert: \"{dir}/{{process}}.pem\", key: \"{dir}/{{process}}.key\", \
                 ca: \"{dir}/inside-ca.pem\" }}\n  clients: {{ cert: \"{dir}/{{process}}-server.pem\", \
                 key: \"{dir}/{{process}}-server.key\", client_ca: \"{dir}/clients-ca.pem\", \
                 client_certs: allow }}"
            ));
        }
        _ => next("copy each machine its own files and the two -ca.pem files, and no -ca.key"),
    }
}

fn refuse_to_replace(paths: &PairPaths) -> Result<(), Failure> {
    if !paths.exist() {
        return Ok(());
    }
    let (certificate, key) = (paths.certificate.display(), paths.key.display());
    let message = format!("{certificate} or {key} is there already");
    let next = "choose another --dir, or replace it with --force";
    Err(Failure::new(Exit::Usage, "CERTIFICATE", message, next))
}

fn wrote(paths: &PairPaths) {
    let (certificate, key) = (paths.certificate.display(), paths.key.display());
    emit(&format!("{} {certificate} and {key}", Paint::stdout().good("wrote")));
}

fn next(step: &str) {
    emit(&format!("  next: {step}"));
}

fn unfit(message: &str) -> Failure {
    Failure::new(Exit::Usage, "INVALID_ARGUMENT", message, "correct the value and run it again")
}

/// The failure of a certificate that cannot be made.
pub fn not_made(error: impl Into<NotIssued>) -> Failure {
    let error = error.into();
    let next = match &error {
        NotIssued::AuthorityExpired => "make new authorities: palisade cert ca --force",
        _ => "correct the name: certificates hold ASCII host names and URIs",
    };
    Failure::new(Exit::Error, "CERTIFICATE", format!("cannot make a certificate: {error}"), next)
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        let next = "choose a directory that this user may write, with --dir";
        Failure::new(Exit::Error, "CERTIFICATE", error.to_string(), next)
    }
}
