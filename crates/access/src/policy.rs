//! The policy: the rights of each identity, and its quota.
//!
//! ```yaml
//! roles:
//!   payments: { hold: ["payment:"], read: ["payment:"] }
//!   operator: { observe: true, operate: true, break: [""], read: [""] }
//! bindings:
//!   - { identities: ["spiffe://corp/payments/*", "alice"], roles: [payments], owner: "{identity}", quota: batch }
//!   - { identities: ["bob"], roles: [operator] }
//! quotas:
//!   default: { operations_per_second: 50000, locks_per_shard: 100000 }
//!   batch: { operations_per_second: 1000, burst: 5000, waits: 100, streams: 4 }
//! revoked: ["mallory", "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"]
//! ```
//!
//! * An operation that no role permits is denied.
//! * An identity has the roles of all bindings that match it. The first of them with `owner` and
//!   the first with `quota` count; without any, the quota is `default`, and without that there is
//!   none.
//! * A key that a quota leaves out is no bound.
//! * A `*` in `owner` needs a separator after `{identity}`.
//! * A revoked identity, certificate or token may do nothing, even if bindings match it.

use crate::digest::Digest;
use crate::prefix::{Pattern, Prefix, SEPARATORS};
use crate::principal::Principal;
use crate::verb::Verb;
use crate::yaml::{self, FileError, empty_is_default};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

/// The word in `owner` that stands for the identity.
const IDENTITY: &str = "{identity}";
/// The quota of an identity without another one.
const DEFAULT: &str = "default";

/// The roles, bindings, quotas and revocations of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    roles: BTreeMap<String, Role>,
    bindings: Vec<Binding>,
    quotas: BTreeMap<String, Quota>,
    revoked: Vec<Pattern>,
    revoked_digests: BTreeSet<Digest>,
}

#[derive(Clone, Debug, Default)]
struct Role {
    /// By verb of names.
    names: BTreeMap<Verb, Vec<Prefix>>,
    /// The verbs of the cluster.
    cluster: BTreeSet<Verb>,
}

#[derive(Clone, Debug)]
struct Binding {
    identities: Vec<Pattern>,
    roles: Vec<String>,
    owner: Option<String>,
    quota: Option<String>,
}

/// How much one identity may have and do. A missing value is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Operations per second at one gateway. Three kinds of operations have this rate each: those
    /// that keep something (renew, heartbeat), those that end something (release, cancel, close),
    /// and all others. An operation that asks many shards (a list, a heartbeat, a close, a cluster
    /// status) counts as one for each of them, up to the burst. A heartbeat needs room for one, and
    /// owes the rest.
    pub operations_per_second: Option<NonZeroU32>,
    /// Operations at once after a pause. Without it, those of one second.
    pub burst: Option<NonZeroU32>,
    /// Locks in force on one shard.
    pub locks_per_shard: Option<NonZeroU32>,
    /// Sessions with a lease on one shard.
    pub sessions_per_shard: Option<NonZeroU32>,
    /// Waiting acquires in the queues of one shard.
    pub waits_per_shard: Option<NonZeroU32>,
    /// Waiting acquires at one gateway.
    pub waits: Option<NonZeroU32>,
    /// Open streams at one gateway.
    pub streams: Option<NonZeroU32>,
    /// Watches at one gateway.
    pub watches: Option<NonZeroU32>,
}

/// The rights of one identity.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    names: BTreeMap<Verb, Vec<Prefix>>,
    cluster: BTreeSet<Verb>,
    owner: Option<Owner>,
    quota: Quota,
}

/// Which owner an identity may write.
#[derive(Clone, Debug)]
struct Owner {
    /// The owner, or its beginning.
    text: String,
    begins: bool,
}

/// Whether something is permitted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The answer.
    pub permitted: bool,
    /// The binding, role and prefix that permit it, or the permission that is missing.
    pub why: String,
}

// ---- the file -----------------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyFile {
    #[serde(default, deserialize_with = "empty_is_default")]
    roles: BTreeMap<String, RoleFile>,
    #[serde(default, deserialize_with = "empty_is_default")]
    bindings: Vec<BindingFile>,
    #[serde(default, deserialize_with = "empty_is_default")]
    quotas: BTreeMap<String, Quota>,
    #[serde(default, deserialize_with = "empty_is_default")]
    revoked: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RoleFile {
    #[serde(default)]
    hold: Vec<String>,
    #[serde(default)]
    read: Vec<String>,
    #[serde(default)]
    watch: Vec<String>,
    #[serde(default, rename = "break")]
    break_: Vec<String>,
    #[serde(default)]
    observe: bool,
    #[serde(default)]
    operate: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BindingFile {
    identities: Vec<String>,
    roles: Vec<String>,
    #[serde(default)]
    owner: Option<String>,
    #[serde(default)]
    quota: Option<String>,
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Errors
    /// All problems, each with the change to make in the file.
    ///
    /// ```
    /// use palisade_access::{Policy, Verb};
    /// let policy = Policy::parse(r#"
    /// roles: { payments: { hold: ["payment:"] } }
    /// bindings: [{ identities: [alice], roles: [payments] }]
    /// "#)?;
    /// let rights = policy.rights(&"alice".parse().unwrap());
    /// assert!(rights.permits(Verb::Hold, "payment:7") && !rights.permits(Verb::Read, "payment:7"));
    /// # Ok::<(), palisade_access::FileError>(())
    /// ```
    pub fn parse(yaml: &str) -> Result<Policy, FileError> {
        let file: Option<PolicyFile> = yaml::parse(yaml)?;
        // A file that is being written anew can be seen while it is empty.
        let Some(PolicyFile { roles, bindings, quotas, revoked }) = file else {
            return Err(FileError::one(
                "it is empty: a policy that permits nothing is `roles: {}`",
            ));
        };
        let mut problems = Vec::new();
        let roles: BTreeMap<String, Role> = (roles.into_iter())
            .map(|(name, role)| {
                let role = role.read(&name, &mut problems);
                (name, role)
            })
            .collect();
        let bindings: Vec<Binding> = (bindings.into_iter().enumerate())
            .map(|(at, binding)| binding.read(at + 1, &roles, &quotas, &mut problems))
            .collect();
        for (name, quota) in &quotas {
            if quota.burst.is_some() && quota.operations_per_second.is_none() {
                problems.push(format!(
                    "quotas.{name}: burst needs operations_per_second, because nothing else refills it"
                ));
            }
        }
        let (mut patterns, mut revoked_digests) = (Vec::new(), BTreeSet::new());
        for text in revoked {
            match text.strip_prefix("sha256:") {
                Some(digest) => match digest.parse::<Digest>() {
                    Ok(digest) => drop(revoked_digests.insert(digest)),
                    Err(error) => problems.push(format!("revoked: {text:?}: {error}")),
                },
                None => match text.parse::<Pattern>() {
                    Ok(pattern) => patterns.push(pattern),
                    Err(error) => problems.push(format!("revoked: {error}")),
                },
            }
        }
        match problems.is_empty() {
            true => Ok(Policy { roles, bindings, quotas, revoked: patterns, revoked_digests }),
            false => Err(FileError(problems)),
        }
    }

    /// The rights of this identity. A revoked identity has none.
    pub fn rights(&self, principal: &Principal) -> Rights {
        let mut rights = Rights::default();
        if self.revokes(principal) {
            return rights;
        }
        let mut quota = None;
        for binding in self.bindings_of(principal) {
            for role in binding.roles.iter().filter_map(|role| self.roles.get(role)) {
                for (verb, prefixes) in &role.names {
                    rights.names.entry(*verb).or_default().extend(prefixes.iter().cloned());
                }
                rights.cluster.extend(&role.cluster);
            }
            quota = quota.or(binding.quota.as_deref());
            if let (None, Some(template)) = (&rights.owner, &binding.owner) {
                rights.owner = Some(Owner::of(template, principal));
            }
        }
        for prefixes in rights.names.values_mut() {
            prefixes.sort_unstable();
            prefixes.dedup();
        }
        rights.quota = self.quotas.get(quota.unwrap_or(DEFAULT)).copied().unwrap_or_default();
        rights
    }

    /// Whether the identity is revoked.
    pub fn revokes(&self, principal: &Principal) -> bool {
        self.revoked.iter().any(|pattern| pattern.matches_principal(principal))
    }

    /// Whether the certificate or the token with this SHA-256 is revoked.
    pub fn revokes_digest(&self, digest: &Digest) -> bool {
        self.revoked_digests.contains(digest)
    }

    /// Whether an identity may do something, and why. Without a name, the question is whether it
    /// may do it to anything.
    pub fn explain(&self, principal: &Principal, verb: Verb, name: Option<&str>) -> Explained {
        if let Some(pattern) = self.revoked.iter().find(|p| p.matches_principal(principal)) {
            return Explained::no(format!("{principal} is revoked, by {:?}", pattern.to_string()));
        }
        let mut roles = BTreeSet::new();
        let mut prefixes = BTreeSet::new();
        for (at, binding) in self.bindings.iter().enumerate() {
            let Some(pattern) = binding.matching(principal) else { continue };
            for name_of_role in &binding.roles {
                let Some(role) = self.roles.get(name_of_role) else { continue };
                roles.insert(name_of_role.as_str());
                let because = format!("binding {} ({pattern}) gives role {name_of_role}", at + 1);
                if role.cluster.contains(&verb) {
                    return Explained::yes(format!("{because}, which may {verb}"));
                }
                for prefix in role.names.get(&verb).into_iter().flatten() {
                    if name.is_none_or(|name| prefix.covers(name)) {
                        let of = of_names(prefix.as_str());
                        return Explained::yes(format!("{because}, which may {verb} {of}"));
                    }
                    prefixes.insert(prefix.as_str());
                }
            }
        }
        let listed = |words: &BTreeSet<&str>| words.iter().copied().collect::<Vec<_>>().join(", ");
        Explained::no(match (roles.is_empty(), prefixes.is_empty()) {
            (true, _) => format!("no binding with a role matches {principal}"),
            (false, true) => {
                format!("no role of {principal} ({}) may {verb} anything", listed(&roles))
            }
            (false, false) => format!(
                "the roles of {principal} ({}) may {verb} only names that begin with one of: {}",
                listed(&roles),
                listed(&prefixes)
            ),
        })
    }

    fn bindings_of(&self, principal: &Principal) -> impl Iterator<Item = &Binding> {
        self.bindings.iter().filter(|binding| binding.matching(principal).is_some())
    }
}

fn of_names(prefix: &str) -> String {
    match prefix {
        "" => "all names".to_owned(),
        prefix => format!("names that begin with {prefix:?}"),
    }
}

impl Explained {
    fn yes(why: String) -> Explained {
        Explained { permitted: true, why }
    }

    fn no(why: String) -> Explained {
        Explained { permitted: false, why }
    }
}

impl RoleFile {
    fn read(self, name: &str, problems: &mut Vec<String>) -> Role {
        let mut role = Role::default();
        let of_names = [
            (Verb::Hold, self.hold),
            (Verb::Read, self.read),
            (Verb::Watch, self.watch),
            (Verb::Break, self.break_),
        ];
        for (verb, prefixes) in of_names {
            for prefix in prefixes {
                match prefix.parse::<Prefix>() {
                    Ok(prefix) => role.names.entry(verb).or_default().push(prefix),
                    Err(error) => problems.push(format!("roles.{name}.{verb}: {error}")),
                }
            }
        }
        let of_cluster = [(Verb::Observe, self.observe), (Verb::Operate, self.operate)];
        role.cluster.extend(of_cluster.iter().filter(|(_, may)| *may).map(|(verb, _)| *verb));
        role
    }
}

impl BindingFile {
    fn read(
        self,
        number: usize,
        roles: &BTreeMap<String, Role>,
        quotas: &BTreeMap<String, Quota>,
        problems: &mut Vec<String>,
    ) -> Binding {
        let BindingFile { identities, roles: given, owner, quota } = self;
        let mut problem = |what: String| problems.push(format!("binding {number}: {what}"));
        let mut patterns = Vec::new();
        for text in &identities {
            match text.parse::<Pattern>() {
                Ok(pattern) => patterns.push(pattern),
                Err(error) => problem(error.to_string()),
            }
        }
        for role in given.iter().filter(|role| !roles.contains_key(*role)) {
            problem(unknown("role", role, roles.keys()));
        }
        if let Some(quota) = quota.as_ref().filter(|quota| !quotas.contains_key(*quota)) {
            problem(unknown("quota", quota, quotas.keys()));
        }
        if let Some(why) = owner.as_deref().and_then(unfit_owner) {
            problem(why);
        }
        Binding { identities: patterns, roles: given, owner, quota }
    }
}

/// Why a text is no template of an owner, if it is none.
fn unfit_owner(owner: &str) -> Option<String> {
    let (start, begins) = match owner.strip_suffix('*') {
        Some(start) => (start, true),
        None => (owner, false),
    };
    let one = start.split_once(IDENTITY);
    let Some((_, rest)) = one.filter(|_| start.matches(IDENTITY).count() == 1) else {
        return Some(format!(
            "the owner {owner:?} is not a text with one {IDENTITY} in it, and perhaps a `*` at its \
             end: write \"{IDENTITY}\" or \"{IDENTITY}/*\""
        ));
    };
    if start.contains('*') {
        return Some(format!("the owner {owner:?} has a `*` before its end: leave it out"));
    }
    // Without the separator, `bob` could write the owner of `bobby`.
    (begins && !rest.starts_with(SEPARATORS)).then(|| {
        format!(
            "the owner {owner:?} has no separator after {IDENTITY}, so one identity could write \
             the owner of another that begins with it: write \"{IDENTITY}/*\" (or `:`, `.` or `-`)"
        )
    })
}

fn unknown<'a>(what: &str, word: &str, known: impl Iterator<Item = &'a String>) -> String {
    match yaml::nearest(word, known.map(String::as_str)) {
        Some(nearest) => format!("there is no {what} {word:?}: did you mean `{nearest}`?"),
        None => format!("there is no {what} {word:?}: add it under {what}s"),
    }
}

impl Binding {
    fn matching(&self, principal: &Principal) -> Option<&Pattern> {
        self.identities.iter().find(|pattern| pattern.matches_principal(principal))
    }
}

impl Owner {
    fn of(template: &str, principal: &Principal) -> Owner {
        let (template, begins) = match template.strip_suffix('*') {
            Some(start) => (start, true),
            None => (template, false),
        };
        Owner { text: template.replace(IDENTITY, principal.as_str()), begins }
    }
}

// ---- questions ----------------------------------------------------------------------------------

impl Rights {
    /// Rights to all names and the cluster, within this quota. For tests and simulators.
    pub fn all(quota: Quota) -> Rights {
        let all = || vec!["".parse().unwrap_or_else(|_| unreachable!("all names"))];
        let (of_names, of_cluster): (Vec<Verb>, Vec<Verb>) =
            Verb::ALL.into_iter().partition(|verb| verb.is_of_names());
        Rights {
            names: of_names.into_iter().map(|verb| (verb, all())).collect(),
            cluster: of_cluster.into_iter().collect(),
            owner: None,
            quota,
        }
    }

    /// Whether the verb is permitted for this name, and for all names that begin with it.
    pub fn permits(&self, verb: Verb, name: &str) -> bool {
        self.names.get(&verb).is_some_and(|prefixes| prefixes.iter().any(|p| p.covers(name)))
    }

    /// Whether the verb is permitted for anything: for some names, or for the cluster.
    pub fn permits_any(&self, verb: Verb) -> bool {
        self.cluster.contains(&verb) || self.names.contains_key(&verb)
    }

    /// All that is permitted: each verb with the beginnings of its names. A verb for the cluster as
    /// a whole has none.
    pub fn permitted(&self) -> impl Iterator<Item = (Verb, &[Prefix])> {
        let of_names = self.names.iter().map(|(verb, prefixes)| (*verb, &prefixes[..]));
        of_names.chain(self.cluster.iter().map(|verb| (*verb, &[][..])))
    }

    /// Whether nothing at all is permitted.
    pub fn is_nothing(&self) -> bool {
        self.names.is_empty() && self.cluster.is_empty()
    }

    /// How much is permitted.
    pub fn quota(&self) -> &Quota {
        &self.quota
    }

    /// Fills in an owner that is left out, if the policy binds owners to identities.
    ///
    /// # Errors
    /// The owner that the identity may write, if it wrote another one.
    pub fn bind_owner(&self, owner: &mut String) -> Result<(), String> {
        let Some(bound) = &self.owner else { return Ok(()) };
        let fits = match bound.begins {
            true => owner.starts_with(&bound.text),
            false => *owner == bound.text,
        };
        match (fits, owner.is_empty()) {
            (true, _) => Ok(()),
            (false, true) => {
                owner.push_str(&bound.text);
                Ok(())
            }
            (false, false) => Err(format!("{}{}", bound.text, if bound.begins { "…" } else { "" })),
        }
    }
}
