//! The identity of a client, and its rights here.
//!
//! * An identity comes from the `authorization` header of a call, else from the certificate of its
//!   connection. Without both, the client is `anonymous`.
//! * A revoked certificate proves nothing, and neither does a header beside it.
//! * The identity of a connection's last header is remembered, so that it costs a comparison per
//!   call. New files, and the end of a token's time, end that memory.
//! * A header that proves none is remembered for a moment, and failed checks of signatures are
//!   bounded by source. Otherwise a client could have signatures checked without end.
//! * That bound refuses guesses only. A token of the file is looked up after any failure, because
//!   that costs one hash and cannot be guessed. A signed token that was proven lately is checked,
//!   too.
//!
//! The decisions are in `access`; this module reads the files and the clock, and tells the audit
//! log and the metrics.

mod failures;
mod files;
mod lately;

use crate::connection::{Proven, Refused};
use crate::error::GatewayError;
use crate::metrics::Metrics;
use crate::permissions::{Need, need};
use crate::sight::{Sight, scope};
use crate::visitor::{Proof, Visitor};
use access::{Accounts, Certificate, Digest, Identity, Principal, Verb, Work};
use audit::{Audit, Event, Kind};
use failures::Failures;
use files::{Files, Loaded};
use lately::Lately;
use routing::AccessConfig;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use wire::OperationKind;
use wire::v1::{Error, ErrorCode, WatchFilter};

/// How long a connection remembers that a header was refused. A token that is not valid yet, or a
/// clock that was set, must not be refused for ever.
const REFUSED_FOR_MS: u64 = 1_000;

/// The identities of one gateway's clients.
#[derive(Debug)]
pub(crate) struct Identities {
    files: Arc<Files>,
    /// Counts changes of the files. An identity of an older version is proven anew.
    version: AtomicU64,
    accounts: Accounts,
    failures: Failures,
    lately: Lately,
}

impl Identities {
    /// Reads the files of a cluster with identities.
    ///
    /// # Errors
    /// If one of them cannot be used.
    pub(crate) fn open(config: &AccessConfig) -> Result<Identities, GatewayError> {
        let files = Arc::new(files::open(config)?);
        let (accounts, failures) = (Accounts::default(), Failures::default());
        let (version, lately) = (AtomicU64::new(0), Lately::default());
        Ok(Identities { files, version, accounts, failures, lately })
    }

    /// Watches the files, for ever.
    pub(crate) async fn watch(&self, audit: &Audit, metrics: &Metrics) {
        self.files.clone().watch(|outcome| self.reloaded(outcome, audit, metrics)).await;
    }

    /// Reads the files now. This blocks on the disk.
    pub(crate) fn reload(&self, audit: &Audit, metrics: &Metrics) {
        self.reloaded(&self.files.reload(), audit, metrics);
    }

    fn reloaded(&self, outcome: &files::Outcome, audit: &Audit, metrics: &Metrics) {
        let event = match outcome {
            files::Outcome::Same => return,
            files::Outcome::Taken => {
                self.version.fetch_add(1, Ordering::Release);
                Event { name: files::WHAT.into(), ..Event::of(Kind::PolicyChanged) }
            }
            files::Outcome::Refused(error) => {
                metrics.access_refused.inc();
                let why = error.to_string();
                Event { name: files::WHAT.into(), why, ..Event::of(Kind::PolicyRefused) }
            }
        };
        audit.record(event);
    }

    /// Proves the identity of a visitor, if that was not done or does not hold any more.
    ///
    /// # Errors
    /// UNAUTHENTICATED if it proves none. BUSY if the signature of its token was not checked,
    /// because too many of its source were wrong. A visitor that was proven before is never told
    /// BUSY.
    pub(crate) fn prove_again(
        &self,
        visitor: &mut Visitor,
        now_ms: u64,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<(), Box<Error>> {
        let identity = visitor.caller.identity();
        if identity.is_some_and(|identity| self.is_current(visitor.version, identity)) {
            return Ok(());
        }
        match self.identify(visitor, now_ms) {
            Ok(proven) => {
                visitor.version = proven.version;
                visitor.caller = std::mem::take(&mut visitor.caller).proven(proven.identity);
                Ok(())
            }
            Err(error) if error.code() == ErrorCode::Busy => {
                metrics.sign_ins_refused.inc();
                Err(error)
            }
            Err(error) => {
                metrics.sign_ins_failed.inc();
                let why = error.message.clone();
                audit.record(Event { why, ..visitor.event(Kind::SignedInFailed) });
                Err(error)
            }
        }
    }

    /// Whether an identity is of the present files and its proof has not ended.
    fn is_current(&self, version: u64, identity: &Identity) -> bool {
        version == self.version() && identity.expires_at_s.is_none_or(|at_s| now_s() < at_s)
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The identity that a visitor proves now. The connection remembers it.
    fn identify(&self, visitor: &Visitor, now_ms: u64) -> Result<Proven, Box<Error>> {
        let Visitor { connection, proof, .. } = visitor;
        let remembered = || connection.proven.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_known = visitor.caller.identity().is_some();
        if let Some(proven) = &*remembered()
            && proven.header == proof.header
        {
            if self.is_current(proven.version, &proven.identity) {
                return Ok(proven.clone());
            }
            is_known = true;
        }
        // The version is read before the files, so that files that come in between are seen next.
        let version = self.version();
        let proved = self.prove_anew(visitor, is_known, version, now_ms);
        let proven = proved.map(|identity| Proven {
            version,
            header: proof.header.clone(),
            identity: Arc::new(identity),
        });
        let mut memory = remembered();
        match &proven {
            Ok(proven) => *memory = Some(proven.clone()),
            // A header that proves nothing any more is a guess from now on.
            Err(_) => drop(memory.take_if(|former| former.header == proof.header)),
        }
        drop(memory);
        proven
    }

    /// Proves the identity that a visitor has shown. A proof that was refused a moment ago is
    /// refused again. So is a proof that needs the check of a signature, if its source has too many
    /// failures. With `is_known`, the proof has proven an identity before, so it is no guess: files
    /// that changed, or a flood from the same address, must not end the streams of its client.
    fn prove_anew(
        &self,
        visitor: &Visitor,
        is_known: bool,
        version: u64,
        now_ms: u64,
    ) -> Result<Identity, Box<Error>> {
        let Visitor { connection, proof, remote, .. } = visitor;
        let header = proof.header.as_ref().map(|header| Digest::of(header.as_bytes()));
        let refused = || connection.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = &*refused()
            && (before.version, before.header) == (version, header)
            && now_ms.saturating_sub(before.at_ms) < REFUSED_FOR_MS
        {
            return Err(before.error.clone());
        }
        let (mut checked, mut busy) = (None, None);
        let may_check = |token: Digest| {
            if !is_known && !self.lately.has(&token) {
                busy = self.failures.may_try(*remote, now_ms).err();
            }
            checked = Some(token);
            busy.is_none()
        };
        let proved = self.prove(proof, now_ms, may_check);
        if let Some(busy) = busy {
            return Err(busy);
        }
        match &proved {
            Ok(_) => checked.into_iter().for_each(|token| self.lately.add(token)),
            Err(error) => {
                if let Some(token) = checked {
                    self.failures.count(*remote, now_ms);
                    self.lately.forget(&token);
                }
                let error = error.clone();
                *refused() = Some(Refused { version, at_ms: now_ms, header, error });
            }
        }
        proved
    }

    /// The identity of this proof. `may_check` is asked before a signature is checked.
    fn prove(
        &self,
        proof: &Proof,
        now_ms: u64,
        may_check: impl FnOnce(Digest) -> bool,
    ) -> Result<Identity, Box<Error>> {
        let Loaded { policy, sign_in } = &*self.files.current();
        let mut principal = Principal::anonymous();
        let mut expires_at_s = None;
        if let Some(shown) = &proof.certificate {
            expires_at_s = Some(end_of(shown)?);
            let certificate = Certificate {
                uris: shown.uris.clone(),
                dns_names: shown.dns_names.clone(),
                common_name: shown.common_name.clone(),
                sha256: Some(Digest(shown.fingerprint)),
            };
            if policy.revokes_digest(&Digest(shown.fingerprint)) {
                return Err(unauthenticated("the client's certificate is revoked"));
            }
            let named = certificate.principal();
            let named =
                named.map_err(|error| unauthenticated(format!("its certificate: {error}")))?;
            if let Some(named) = named {
                refuse_revoked(policy, &named)?;
                if sign_in.reserves(&named) {
                    return Err(unauthenticated(format!(
                        "its certificate names {named}, and only a signed token can prove an \
                         identity that begins like this: use a certificate with another name"
                    )));
                }
                principal = named;
            }
        }
        if let Some(header) = &proof.header {
            let signed_in = sign_in.header_if(header.as_bytes(), now_s(), may_check);
            let signed_in = signed_in.map_err(|error| unauthenticated(error.to_string()))?;
            if policy.revokes_digest(&signed_in.digest) {
                return Err(unauthenticated("the token is revoked: ask for a new one"));
            }
            refuse_revoked(policy, &signed_in.principal)?;
            principal = signed_in.principal;
            expires_at_s = [expires_at_s, signed_in.expires_at_s].into_iter().flatten().min();
        }
        let rights = policy.rights(&principal);
        let account = self.accounts.of(&principal, now_ms);
        Ok(Identity { principal, rights, account, expires_at_s })
    }

    /// Whether a visitor may do an operation of this kind to this name, or to all names that begin
    /// with it. The name is empty for an operation without one.
    ///
    /// # Errors
    /// PERMISSION_DENIED, or UNAUTHENTICATED if the visitor has shown no identity.
    pub(crate) fn permit(
        &self,
        visitor: &Visitor,
        kind: OperationKind,
        name: &str,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<(), Box<Error>> {
        let Some(identity) = visitor.caller.identity() else { return Err(no_identity()) };
        let (verb, permitted) = match need(kind) {
            Need::Name(verb) | Need::Prefix(verb) => (verb, identity.rights.permits(verb, name)),
            Need::Anything(verb) => (verb, identity.rights.permits_any(verb)),
        };
        if permitted {
            return Ok(());
        }
        // Only a refusal needs words.
        let of = match need(kind) {
            Need::Name(_) => shown(name),
            Need::Prefix(_) => format!("all names that begin with {}", shown(name)),
            Need::Anything(_) => "anything".into(),
        };
        metrics.denied.inc();
        if audit.is_on() {
            let asked = matches!(need(kind), Need::Name(_) | Need::Prefix(_)).then_some(name);
            let policy = &self.files.current().policy;
            audit.record(Event {
                operation: kind.as_str(),
                name: name.to_owned(),
                why: policy.explain(&identity.principal, verb, asked).why,
                ..visitor.event(Kind::Denied)
            });
        }
        Err(denied(identity, format_args!("{verb} {of}")))
    }

    /// The sight of a visitor in a watch with this filter.
    ///
    /// # Errors
    /// As of [`permit`](Identities::permit).
    pub(crate) fn permit_watch(
        &self,
        visitor: &Visitor,
        filter: &WatchFilter,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<Sight, Box<Error>> {
        let Some(identity) = visitor.caller.identity() else { return Err(no_identity()) };
        if let Some(sight) = Sight::of(identity, filter) {
            return Ok(sight);
        }
        let name = scope(filter);
        metrics.denied.inc();
        if audit.is_on() {
            let policy = &self.files.current().policy;
            let why = policy.explain(&identity.principal, Verb::Watch, Some(name)).why;
            let name = name.to_owned();
            audit.record(Event { operation: "watch", name, why, ..visitor.event(Kind::Denied) });
        }
        let of = match filter.name.is_empty() {
            true => format!("all names that begin with {}", shown(name)),
            false => shown(name),
        };
        Err(denied(identity, format_args!("watch {of}")))
    }

    /// Whether a visitor may make a call about the cluster as a whole.
    ///
    /// # Errors
    /// As of [`permit`](Identities::permit).
    pub(crate) fn permit_cluster(
        &self,
        visitor: &Visitor,
        verb: Verb,
        operation: &'static str,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<(), Box<Error>> {
        let Some(identity) = visitor.caller.identity() else { return Err(no_identity()) };
        if identity.rights.permits_any(verb) {
            return Ok(());
        }
        metrics.denied.inc();
        if audit.is_on() {
            let policy = &self.files.current().policy;
            let why = policy.explain(&identity.principal, verb, None).why;
            audit.record(Event { operation, why, ..visitor.event(Kind::Denied) });
        }
        Err(denied(identity, format_args!("{verb} the cluster")))
    }

    /// Whether a visitor may open a stream: an identity that may do nothing takes no room.
    ///
    /// # Errors
    /// As of [`permit`](Identities::permit).
    pub(crate) fn permit_stream(
        &self,
        visitor: &Visitor,
        audit: &Audit,
        metrics: &Metrics,
    ) -> Result<(), Box<Error>> {
        let Some(identity) = visitor.caller.identity() else { return Err(no_identity()) };
        if !identity.rights.is_nothing() {
            return Ok(());
        }
        metrics.denied.inc();
        let why = "it may do nothing".to_owned();
        audit.record(Event { operation: "stream", why, ..visitor.event(Kind::Denied) });
        Err(denied(identity, "open a stream"))
    }
}

/// The purpose of an operation, where operations are counted. No client needs an operation without
/// a kind.
pub(crate) fn work_of(kind: Option<OperationKind>) -> Work {
    match kind {
        Some(OperationKind::Renew | OperationKind::Heartbeat) => Work::Keep,
        Some(OperationKind::Release | OperationKind::CancelWait | OperationKind::CloseSession) => {
            Work::End
        }
        Some(
            OperationKind::Acquire
            | OperationKind::Check
            | OperationKind::OpenSession
            | OperationKind::Break
            | OperationKind::History
            | OperationKind::List
            | OperationKind::ClusterStatus
            | OperationKind::ShardStatus,
        )
        | None => Work::Other,
    }
}

/// Counts an operation of this kind, as `count` of them. Neither count nor time is asked for
/// without identities.
///
/// # Errors
/// BUSY if the visitor's identity is above its rate.
pub(crate) fn within_rate(
    visitor: &Visitor,
    kind: Option<OperationKind>,
    count: impl FnOnce() -> u32,
    now_ms: impl FnOnce() -> u64,
) -> Result<(), Box<Error>> {
    let Some(identity) = visitor.caller.identity() else { return Ok(()) };
    if identity.quota().operations_per_second.is_none() {
        return Ok(());
    }
    let (work, quota) = (work_of(kind), identity.quota());
    let counted = identity.account.operation(work, count(), quota, now_ms());
    counted.map_err(|retry_after_ms| {
        let (who, quota) = (&identity.principal, identity.quota().operations_per_second);
        let per_second = quota.map_or(0, u32::from);
        let message = format!(
            "{who} has more operations than its {per_second} per second at this gateway, and this \
             one was not begun: send fewer, or have the quota changed"
        );
        Box::new(Error::busy(message, retry_after_ms))
    })
}

/// Binds the owner of an acquire, or of a session, to the identity of its visitor.
///
/// # Errors
/// PERMISSION_DENIED if the owner is not one that the identity may write.
pub(crate) fn bind_owner(visitor: &Visitor, owner: &mut String) -> Result<(), Box<Error>> {
    let Some(identity) = visitor.caller.identity() else { return Ok(()) };
    identity.rights.bind_owner(owner).map_err(|bound| {
        Box::new(Error::new(
            ErrorCode::PermissionDenied,
            format!("{} may only write the owner {bound:?}: leave it out", identity.principal),
        ))
    })
}

fn denied(identity: &Identity, what: impl std::fmt::Display) -> Box<Error> {
    if identity.principal.is_anonymous() {
        return no_identity();
    }
    let who = &identity.principal;
    let message = format!("{who} may not {what}: ask for the permission");
    Box::new(Error::new(ErrorCode::PermissionDenied, message))
}

/// The error for a client that has shown no identity where it needs one.
pub(crate) fn no_identity() -> Box<Error> {
    unauthenticated(
        "this needs an identity, and none was shown: use a client certificate or a token",
    )
}

/// The first second at which a certificate proves nothing any more, in Unix time.
///
/// # Errors
/// UNAUTHENTICATED if it proves nothing now.
fn end_of(shown: &net::certificate::Certificate) -> Result<u64, Box<Error>> {
    let in_time = shown.check_time(now_s() as i64);
    in_time.map_err(|error| unauthenticated(format!("its certificate: {error}")))?;
    Ok(shown.not_after_s.saturating_add(1) as u64)
}

fn refuse_revoked(policy: &access::Policy, principal: &Principal) -> Result<(), Box<Error>> {
    match policy.revokes(principal) {
        true => Err(unauthenticated(format!("the identity {principal} is revoked"))),
        false => Ok(()),
    }
}

fn unauthenticated(message: impl Into<String>) -> Box<Error> {
    Box::new(Error::new(ErrorCode::Unauthenticated, message))
}

/// A name for a message, shortened, because it was not checked yet.
fn shown(name: &str) -> String {
    match name.char_indices().nth(128) {
        Some((end, _)) => format!("{:?}…", &name[..end]),
        None => format!("{name:?}"),
    }
}

/// Unix time in seconds.
fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
