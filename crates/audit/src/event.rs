//! One line of the log.

use serde::Serialize;
use std::time::SystemTime;

/// Most bytes of a text in a line. A longer one is cut, because a client may send names of any
/// length that are refused.
const TEXT_BYTES_MAX: usize = 512;

/// What happened. The names are those of the field `event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The process serves from now on.
    Started,
    /// An identity asked for what it may not do.
    Denied,
    /// A client showed credentials that prove no identity.
    SignedInFailed,
    /// A lock was broken.
    Break,
    /// An operation was answered. Recorded only where all operations are.
    Operation,
    /// A change of the cluster was asked for.
    ClusterChange,
    /// Another policy, other tokens or other keys of an issuer are in use.
    PolicyChanged,
    /// A changed file of these could not be used, and the former one stays in use.
    PolicyRefused,
    /// Other certificates are in use.
    CertificatesChanged,
    /// Changed certificates could not be used, and the former ones stay in use.
    CertificatesRefused,
    /// Another process of the cluster, or one that said so, was refused.
    PeerRefused,
}

impl Kind {
    /// Whether a client can cause it as often as it likes, without a right to anything.
    pub(crate) fn is_summed_up(self) -> bool {
        matches!(self, Kind::Denied | Kind::SignedInFailed | Kind::PeerRefused)
    }
}

/// One line. Fields that are empty are left out.
///
/// ```
/// use palisade_audit::{Event, Kind};
/// let event = Event {
///     principal: "alice".into(),
///     operation: "break",
///     name: "orders:42".into(),
///     why: "the host is gone".into(),
///     ..Event::of(Kind::Break)
/// };
/// assert_eq!(event.kind, Kind::Break);
/// ```
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// When it happened. [`Event::of`] sets it.
    #[serde(serialize_with = "rfc3339")]
    pub at: SystemTime,
    /// What happened.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// The identity that asked.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub principal: String,
    /// The address that it asked from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remote: String,
    /// What stands for the address when repeats without an identity are summed up, because one
    /// machine can have many addresses. It is not written. If it is empty, the address without its
    /// port is used.
    #[serde(skip)]
    pub source: String,
    /// What it asked for, in lower case with underscores.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub operation: &'static str,
    /// The name of the lock, or the file that changed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The fencing token of the hold that was to be broken.
    #[serde(skip_serializing_if = "is_zero")]
    pub fencing_token: u64,
    /// The identity whose hold was broken.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub holder: String,
    /// The reason, or the outcome.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// Set by the log, in a sum: how many further events of this kind and identity there were since
    /// the line before.
    #[serde(skip_serializing_if = "is_zero")]
    pub repeated: u64,
}

impl Event {
    /// An event of this kind, now, with empty fields.
    pub fn of(kind: Kind) -> Event {
        let empty = String::new;
        Event {
            at: SystemTime::now(),
            kind,
            principal: empty(),
            remote: empty(),
            source: empty(),
            operation: "",
            name: empty(),
            fencing_token: 0,
            holder: empty(),
            why: empty(),
            repeated: 0,
        }
    }

    /// Cuts long texts.
    pub(crate) fn bounded(mut self) -> Event {
        let Event { principal, remote, name, holder, why, .. } = &mut self;
        for text in [principal, remote, name, holder, why] {
            let mut end = TEXT_BYTES_MAX;
            if text.len() > end {
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
                text.push('…');
            }
        }
        self
    }
}

fn rfc3339<S: serde::Serializer>(at: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&humantime::format_rfc3339_millis(*at))
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
