//! The filter of a watch, from the wire.

use locks::EventKind;
use watch::{Filter, Kinds};
use wire::limits::{NAME_BYTES_MAX, OWNER_BYTES_MAX, SESSION_BYTES_MAX};
use wire::v1::{self, Error};

/// The filter that was asked for.
///
/// # Errors
/// INVALID_ARGUMENT if no lock could match it, or a kind is unknown.
pub(super) fn filter(asked: v1::WatchFilter) -> Result<Filter, Error> {
    let v1::WatchFilter { name, prefix, session_id, owner, kinds } = asked;
    if !name.is_empty() {
        wire::check_name(&name)?;
    }
    for (what, text, most) in [
        ("prefix", &prefix, NAME_BYTES_MAX),
        ("session id", &session_id, SESSION_BYTES_MAX),
        ("owner", &owner, OWNER_BYTES_MAX),
    ] {
        if text.len() > most {
            let bytes = text.len();
            return Err(Error::invalid(format!("the {what} has {bytes} bytes: at most {most}")));
        }
    }
    let kinds = match kinds.is_empty() {
        true => Kinds::default(),
        false => Kinds::of(kinds.into_iter().map(kind).collect::<Result<Vec<_>, _>>()?),
    };
    let name = Some(name).filter(|name| !name.is_empty());
    Ok(Filter { name, prefix, session: session_id, owner, kinds })
}

fn kind(kind: i32) -> Result<EventKind, Error> {
    match v1::EventKind::try_from(kind) {
        Ok(v1::EventKind::Granted) => Ok(EventKind::Granted),
        Ok(v1::EventKind::Queued) => Ok(EventKind::Queued),
        Ok(v1::EventKind::Released) => Ok(EventKind::Released),
        Ok(v1::EventKind::Expired) => Ok(EventKind::Expired),
        Ok(v1::EventKind::Broken) => Ok(EventKind::Broken),
        Ok(v1::EventKind::Cancelled) => Ok(EventKind::Cancelled),
        Ok(v1::EventKind::Unspecified) | Err(_) => {
            Err(Error::invalid(format!("{kind} is no kind of event: leave it out")))
        }
    }
}
