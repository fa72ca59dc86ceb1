//! `palisade policy`: asks a policy file, makes tokens, and hashes them. No cluster is involved.

use crate::args::{Policy, PolicyCheck, PolicyHash, PolicyToken};
use crate::failure::{Exit, Failure};
use crate::output::emit;
use crate::shown::one_line;
use access::{Digest, Explained, TOKEN_PREFIX, Tokens, new_token, revocable_digest};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs a verb of `palisade policy`.
///
/// # Errors
/// If the file cannot be used, or the answer is no.
pub fn run(verb: &Policy) -> Result<(), Failure> {
    match verb {
        Policy::Check(args) => check(args),
        Policy::Token(args) => token(args),
        Policy::Hash(args) => hash(args),
    }
}

fn check(args: &PolicyCheck) -> Result<(), Failure> {
    let file = &args.file;
    let unusable = |why: String| {
        let next = "correct the file and check it again; gateways keep the policy that they have";
        let message = format!("{} cannot be used:\n{why}", file.display());
        Failure::new(Exit::Usage, "POLICY", message, next)
    };
    let text = std::fs::read_to_string(file).map_err(|error| unusable(error.to_string()))?;
    let policy = access::Policy::parse(&text).map_err(|error| unusable(error.to_string()))?;
    let (Some(identity), Some(verb)) = (&args.identity, args.can) else {
        emit(&format!("{} can be used", file.display()));
        return Ok(());
    };
    if args.name.is_some() && !verb.is_of_names() {
        let message = format!("{verb} is permitted for the whole cluster, and not for a name");
        return Err(Failure::new(Exit::Usage, "POLICY", message, "leave out the name"));
    }
    let Explained { permitted, why } = policy.explain(identity, verb, args.name.as_deref());
    emit(&one_line(&format!("{}: {why}", if permitted { "yes" } else { "no" })));
    match permitted {
        true => Ok(()),
        false => Err(Failure::already_told(Exit::Denied)),
    }
}

fn token(args: &PolicyToken) -> Result<(), Failure> {
    let file = args.file.as_path();
    let failed = |exit: Exit, why: String| {
        let message = format!("no token was made: {}: {why}", file.display());
        Failure::new(exit, "TOKENS", message, "correct the file, or name another with --file")
    };
    if args.identity.is_anonymous() {
        let why = "`anonymous` stands for clients without any identity".to_owned();
        return Err(failed(Exit::Usage, why));
    }
    let token = new_token(rand::random());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires_at_s = args.expires.map(|expires| (now + expires).as_secs());
    let line = Tokens::line(&args.identity, &Digest::of(token.as_bytes()), expires_at_s);
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => line,
        Err(error) => return Err(failed(Exit::Error, error.to_string())),
        Ok(text) if text.trim().is_empty() || text.trim() == "[]" => line,
        Ok(text) if text.ends_with('\n') => text + &line,
        Ok(text) => text + "\n" + &line,
    };
    Tokens::parse(&text).map_err(|error| failed(Exit::Usage, error.to_string()))?;
    replace(file, &text).map_err(|error| failed(Exit::Error, error.to_string()))?;
    emit(&token);
    Ok(())
}

fn hash(args: &PolicyHash) -> Result<(), Failure> {
    let read = match &args.file {
        Some(file) => std::fs::read_to_string(file),
        None => std::io::read_to_string(std::io::stdin()),
    };
    let failed = |exit: Exit, why: String| {
        let from =
            args.file.as_ref().map_or("standard input".into(), |file| file.display().to_string());
        let next = "give a token as a client sends it, without `Bearer`";
        Failure::new(exit, "TOKENS", format!("{from}: {why}"), next)
    };
    let text = read.map_err(|error| failed(Exit::Error, error.to_string()))?;
    let token = text.trim();
    // A hash of something else would be listed, and revoke nothing.
    let is_signed = token.split('.').filter(|part| !part.is_empty()).count() == 3;
    if token.contains(char::is_whitespace) || !(token.starts_with(TOKEN_PREFIX) || is_signed) {
        return Err(failed(
            Exit::Usage,
            format!("it is no token: neither `{TOKEN_PREFIX}…` nor a JWT"),
        ));
    }
    emit(&format!("sha256:{}", revocable_digest(token)));
    Ok(())
}

/// Writes a file beside it and renames that, so that a gateway never reads half of it. A new file
/// can be read by its owner only; another one keeps its mode.
fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let renamed = written.and_then(|mut to| {
        to.write_all(text.as_bytes())?;
        to.sync_all()?;
        if let Ok(former) = std::fs::metadata(file) {
            to.set_permissions(former.permissions())?;
        }
        std::fs::rename(&beside, file)
    });
    renamed.inspect_err(|_| drop(std::fs::remove_file(&beside)))
}
