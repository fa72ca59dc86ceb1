//! Operations on many shards: heartbeats, closes and lists.
//!
//! Each shard has a part of its own, and all parts run at the same time. A slow shard holds up the
//! answers of the others for at most the operation's timeout.

use super::caller::Caller;
use super::directory::Directory;
use super::part::{Bounds, Part, Place};
use link::mux::Answer;
use routing::ShardId;
use std::collections::{BTreeMap, BTreeSet};
use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::internal::v1::{CloseSession, Heartbeat, ShardPage};
use wire::v1::operation::Op;
use wire::v1::{
    CloseSessionResponse, Error, ErrorCode, Grant, HeartbeatRequest, HeartbeatResponse,
    ListResponse, SessionLease, SessionLeaseState, Waiter,
};
use wire::{ErrorClass, decode_cursor, encode_cursor};

type Ended = Result<RoutedAnswer, Box<Error>>;

/// Most broken tokens in one answer to a heartbeat, so that the answer fits a frame.
const BROKEN_TOKENS_MAX: usize = 1 << 16;

/// One operation on many shards.
///
/// * A part is running or has ended. `running` counts those that have not.
#[derive(Debug)]
pub(super) struct FanOut {
    merge: Merge,
    parts: Vec<OfShard>,
    running: usize,
}

#[derive(Debug)]
struct OfShard {
    shard: ShardId,
    part: Option<Part>,
    ended: Option<Ended>,
}

/// How the parts' answers become one.
#[derive(Debug)]
enum Merge {
    /// `unknown` are the shards that the client named and the cluster does not have.
    Heartbeat {
        unknown: Vec<u32>,
    },
    CloseSession,
    List {
        limit: usize,
    },
}

impl FanOut {
    /// Splits an operation.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if a close names a shard that does not exist.
    pub(super) fn of(
        op: Op,
        timeout_ms: u64,
        caller: &Caller,
        directory: &Directory,
        now_ms: u64,
    ) -> Result<FanOut, Box<Error>> {
        let part = |shard: ShardId, op: RoutedOp| {
            let bounds = Bounds { timeout_ms, retry_busy: true };
            let (part, ended) =
                match Part::new(op, Place::Shard(shard), bounds, caller, directory, now_ms) {
                    Ok(part) => (Some(part), None),
                    Err(error) => (None, Some(Err(error))),
                };
            OfShard { shard, part, ended }
        };
        let (merge, parts): (Merge, Vec<OfShard>) = match op {
            Op::Heartbeat(HeartbeatRequest { session_id, leases, .. }) => {
                let lives: BTreeMap<u32, SessionLease> =
                    leases.into_iter().map(|lease| (lease.shard, lease)).collect();
                let (known, unknown) = split(directory, lives.keys().copied());
                let heartbeat = |shard: ShardId| {
                    let SessionLease { life, broken_seen, .. } =
                        lives.get(&shard.0).copied().unwrap_or_default();
                    let session_id = session_id.clone();
                    RoutedOp::Heartbeat(Heartbeat { session_id, life, broken_seen })
                };
                let parts = known.into_iter().map(|shard| part(shard, heartbeat(shard)));
                (Merge::Heartbeat { unknown }, parts.collect())
            }
            Op::CloseSession(request) => {
                let (known, unknown) = split(directory, request.shards.iter().copied());
                if let Some(shard) = unknown.first() {
                    return Err(Box::new(Error::invalid(format!(
                        "the cluster has no shard {shard}"
                    ))));
                }
                let close = || {
                    let session_id = request.session_id.clone();
                    RoutedOp::CloseSession(CloseSession { session_id })
                };
                let parts = known.into_iter().map(|shard| part(shard, close()));
                (Merge::CloseSession, parts.collect())
            }
            Op::List(request) => {
                let limit = wire::limits::list_rows(&request) as usize;
                let list = || RoutedOp::List(request.clone());
                let parts = directory.shards().into_iter().map(|shard| part(shard, list()));
                (Merge::List { limit }, parts.collect())
            }
            _ => return Err(Box::new(Error::internal("this operation concerns one shard only"))),
        };
        let running = parts.iter().filter(|of_shard| of_shard.part.is_some()).count();
        Ok(FanOut { merge, parts, running })
    }

    /// The running parts, by number.
    pub(super) fn parts_mut(&mut self) -> impl Iterator<Item = (u32, &mut Part)> {
        let parts = self.parts.iter_mut().enumerate();
        parts.filter_map(|(number, of_shard)| Some((number as u32, of_shard.part.as_mut()?)))
    }

    /// A running part.
    pub(super) fn part_mut(&mut self, number: u32) -> Option<&mut Part> {
        self.parts.get_mut(number as usize)?.part.as_mut()
    }

    /// Takes the end of a part.
    pub(super) fn ended(&mut self, number: u32, ended: Ended) {
        let Some(of_shard) = self.parts.get_mut(number as usize) else { return };
        if of_shard.part.take().is_none() {
            return;
        }
        if let Err(error) = &ended
            && error.code() != ErrorCode::SessionLost
        {
            tracing::debug!(shard = %of_shard.shard, %error, "one shard of a fan-out failed");
        }
        of_shard.ended = Some(ended);
        self.running -= 1;
    }

    /// The answer, once all parts have ended.
    pub(super) fn answer(&mut self) -> Option<Result<Answer, Box<Error>>> {
        if self.running > 0 {
            return None;
        }
        let ended = std::mem::take(&mut self.parts)
            .into_iter()
            .filter_map(|of_shard| Some((of_shard.shard, of_shard.ended?)));
        Some(match &mut self.merge {
            Merge::Heartbeat { unknown } => {
                heartbeat(ended, std::mem::take(unknown)).map(Answer::Heartbeat)
            }
            Merge::CloseSession => close_session(ended).map(Answer::CloseSession),
            Merge::List { limit } => list(ended, *limit).map(Answer::List),
        })
    }
}

/// The number of shards that an operation asks: at least 1.
pub(crate) fn shards_asked(op: &Op, directory: &Directory) -> u32 {
    let known = |shards: &mut dyn Iterator<Item = u32>| split(directory, shards).0.len();
    let count = match op {
        Op::Heartbeat(request) => known(&mut request.leases.iter().map(|lease| lease.shard)),
        Op::CloseSession(request) => known(&mut request.shards.iter().copied()),
        Op::List(_) => directory.shards().len(),
        _ => 1,
    };
    count.max(1) as u32
}

/// Splits shard numbers into shards that exist, each once, and numbers that do not.
fn split(directory: &Directory, shards: impl Iterator<Item = u32>) -> (Vec<ShardId>, Vec<u32>) {
    let named: BTreeSet<u32> = shards.collect();
    let (known, unknown): (Vec<u32>, Vec<u32>) =
        named.into_iter().partition(|shard| directory.has(ShardId(*shard)));
    (known.into_iter().map(ShardId).collect(), unknown)
}

fn heartbeat(
    ended: impl Iterator<Item = (ShardId, Ended)>,
    unknown: Vec<u32>,
) -> Result<HeartbeatResponse, Box<Error>> {
    let mut answer = HeartbeatResponse { lost_shards: unknown, ..Default::default() };
    let mut room = BROKEN_TOKENS_MAX;
    for (shard, ended) in ended {
        match ended {
            Ok(RoutedAnswer::Heartbeat(lease)) => {
                answer.renewed_shards += 1;
                answer.leases.push(within(lease, &mut room));
            }
            Ok(_) => answer.failed_shards.push(shard.0),
            Err(error) => match error.class() {
                ErrorClass::Fenced => answer.lost_shards.push(shard.0),
                ErrorClass::FixInput => return Err(error),
                _ => answer.failed_shards.push(shard.0),
            },
        }
    }
    Ok(answer)
}

/// Fits one shard's part of an answer into `room`. Tokens that do not fit are dropped and reported
/// as an overflow.
fn within(mut lease: SessionLeaseState, room: &mut usize) -> SessionLeaseState {
    if lease.broken_tokens.len() > *room {
        lease.broken_tokens.clear();
        lease.broken_overflow = true;
    }
    *room -= lease.broken_tokens.len();
    lease
}

/// If one shard fails the whole fails, because closing a second time does no harm.
fn close_session(
    ended: impl Iterator<Item = (ShardId, Ended)>,
) -> Result<CloseSessionResponse, Box<Error>> {
    let mut answer = CloseSessionResponse::default();
    let mut failed = None;
    for (_, ended) in ended {
        match ended {
            Ok(RoutedAnswer::CloseSession(of_shard)) => answer.released += of_shard.released,
            Ok(_) => {}
            Err(error) if error.class() == ErrorClass::Fenced => {}
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(answer), Err)
}

/// Shards that failed are named in the answer. If all failed, the list fails.
fn list(
    ended: impl Iterator<Item = (ShardId, Ended)>,
    limit: usize,
) -> Result<ListResponse, Box<Error>> {
    let (mut pages, mut missing, mut failed) = (Vec::new(), Vec::new(), None);
    for (shard, ended) in ended {
        match ended {
            Ok(RoutedAnswer::List(page)) => pages.push(page),
            Ok(_) => missing.push(shard.0),
            Err(error) if error.class() == ErrorClass::FixInput => return Err(error),
            Err(error) => {
                missing.push(shard.0);
                failed = Some(error);
            }
        }
    }
    match failed {
        Some(error) if pages.is_empty() => Err(error),
        _ => Ok(ListResponse { missing_shards: missing, ..merge(pages, limit) }),
    }
}

/// Merges one page of each shard into one page.
///
/// The page ends where the first shard page with a cursor ends. The next grants of that shard come
/// before the rest of the others, so going on would skip them.
fn merge(pages: Vec<ShardPage>, limit: usize) -> ListResponse {
    let key = |grant: &Grant| (grant.resource_name.clone(), grant.fencing_token);
    let mut end = pages.iter().filter_map(|page| decode_cursor(&page.next_cursor)).min();
    let (mut grants, mut waiters) = (Vec::<Grant>::new(), Vec::<Waiter>::new());
    for page in pages {
        grants.extend(page.grants);
        waiters.extend(page.waiters);
    }
    grants.sort_by_cached_key(key);
    if let Some(end) = &end {
        let fits = |grant: &Grant| {
            (grant.resource_name.as_str(), grant.fencing_token) <= (end.0.as_str(), end.1)
        };
        grants.truncate(grants.partition_point(fits));
    }
    if grants.len() > limit {
        grants.truncate(limit);
        end = grants.last().map(key);
    }
    let next_cursor = end.map(|(name, token)| encode_cursor(&name, token)).unwrap_or_default();
    // A name is on one shard. The waiters of those on later pages come with them.
    let told: BTreeSet<&str> = grants.iter().map(|grant| &*grant.resource_name).collect();
    waiters.retain(|waiter| told.contains(&*waiter.resource_name));
    waiters.sort_by(|one, next| {
        (&one.resource_name, one.place).cmp(&(&next.resource_name, next.place))
    });
    let more = !next_cursor.is_empty();
    ListResponse { grants, more, next_cursor, waiters, ..ListResponse::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(names: &[&str], next: Option<&str>) -> ShardPage {
        let grant = |name: &&str| Grant {
            resource_name: (*name).into(),
            fencing_token: 3,
            ..Default::default()
        };
        let next_cursor = next.map(|name| encode_cursor(name, 3)).unwrap_or_default();
        ShardPage { grants: names.iter().map(grant).collect(), next_cursor, ..ShardPage::default() }
    }

    fn merged(pages: &[ShardPage], limit: usize) -> (Vec<String>, Option<String>) {
        let page = merge(pages.to_vec(), limit);
        assert_eq!(page.more, !page.next_cursor.is_empty());
        let names = page.grants.into_iter().map(|grant| grant.resource_name).collect();
        (names, decode_cursor(&page.next_cursor).map(|(name, _)| name))
    }

    #[test]
    fn a_page_ends_where_the_first_shard_with_more_does() {
        let names =
            |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (short, long) = (page(&["b", "d"], Some("d")), page(&["a", "c", "e", "g"], None));
        assert_eq!(
            merged(&[short.clone(), long.clone()], 10),
            (names(&["a", "b", "c", "d"]), Some("d".into()))
        );
        assert_eq!(merged(&[short, long.clone()], 3), (names(&["a", "b", "c"]), Some("c".into())));
        assert_eq!(
            merged(&[page(&["b"], None), long.clone()], 5),
            (names(&["a", "b", "c", "e", "g"]), None)
        );
        // A page without grants still has a cursor for the names that it looked through.
        assert_eq!(merged(&[page(&[], Some("b")), long], 5), (names(&["a"]), Some("b".into())));
    }

    #[test]
    fn a_page_has_the_waiters_of_its_own_names() {
        let waiter =
            |name: &str, place| Waiter { resource_name: name.into(), place, ..Waiter::default() };
        let mut first = page(&["b", "d"], None);
        first.waiters = vec![waiter("b", 1), waiter("b", 2), waiter("d", 1)];
        let mut second = page(&["a", "c"], None);
        second.waiters = vec![waiter("a", 1), waiter("c", 1)];
        let merged = merge(vec![first, second], 3);
        let told: Vec<(&str, u32)> =
            merged.waiters.iter().map(|one| (&*one.resource_name, one.place)).collect();
        assert_eq!(told, [("a", 1), ("b", 1), ("b", 2), ("c", 1)]);
    }
}
