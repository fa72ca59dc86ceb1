//! What is said of commands, outcomes, replies and Raft messages. Words only: nothing here decides
//! or remembers.

use locks::{
    Command, DropReason, Effects, EndKind, Grant, LeaseId, Mode, Outcome, RequestId, Token,
};
use palisade_shard::{Answer, Reply};
use raft::eraftpb::{
    ConfChange, ConfChangeType, Entry, EntryType, HardState, Message, MessageType,
};
use raft_prost::Message as _;

/// Who asked with this request id, and for what.
pub type WhoAsked<'a> = &'a dyn Fn(RequestId) -> String;

pub fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

/// `n3`, or `n3#1` where it is the second of its name: it lost its disk and came back. See
/// `src/raft/peer_id.rs`.
pub fn member(peer_id: u64) -> String {
    match (peer_id & u64::from(u32::MAX), peer_id >> 32) {
        (node, 0) => format!("n{node}"),
        (node, incarnation) => format!("n{node}#{incarnation}"),
    }
}

/// `7`, or `7..9`.
pub fn span(first: u64, last: u64) -> String {
    if first == last { format!("{first}") } else { format!("{first}..{last}") }
}

pub fn command(command: &Command<'_>, who_asked: WhoAsked<'_>) -> String {
    match command {
        Command::Acquire { name, owner, mode, session, .. } => {
            let on = if session.is_empty() { String::new() } else { format!(" on {session}") };
            format!("acquire {name}{} for {owner}{on}", self::mode(*mode))
        }
        Command::Renew { name, token } => format!("renew {name} of token {token}"),
        Command::Release { name, token, .. } => format!("release {name} of token {token}"),
        Command::Heartbeat { session, life: LeaseId(0), .. } => format!("heartbeat of {session}"),
        Command::Heartbeat { session, life, .. } => {
            format!("heartbeat of {session}, life {}", life.0)
        }
        Command::CloseSession { session } => format!("close {session}"),
        Command::CancelWait { request_id, given_up: false, .. } => {
            format!("cancel {}", who_asked(*request_id))
        }
        Command::CancelWait { request_id, .. } => {
            format!("cancel {} for good", who_asked(*request_id))
        }
        Command::ExpireLease { lease, renewal_seq } => {
            format!("expire lease {} unless renewed since {renewal_seq}", lease.0)
        }
        Command::Break { name, token, by, reason } => {
            format!("break {name} of token {token}, by {by}: {reason}")
        }
    }
}

fn mode(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => String::new(),
        Mode::Shared => " shared".to_owned(),
        Mode::Permits { count, limit } => format!(" ({count} of {limit})"),
    }
}

/// What applying a command came to: what it did, or its outcome if that is all.
pub fn applied(
    command: &Command<'_>,
    outcome: &Outcome,
    effects: &Effects,
    who_asked: WhoAsked<'_>,
) -> String {
    let mut said = match (command, outcome) {
        (_, Outcome::Granted(grant)) => vec![grants(grant)],
        // What follows says it.
        (
            _,
            Outcome::Released { already: false }
            | Outcome::Cancelled
            | Outcome::Broken(_)
            | Outcome::Expired(true),
        ) => {
            vec![]
        }
        (Command::Acquire { owner, name, .. }, Outcome::Queued) => {
            vec![format!("{owner} waits for {name}")]
        }
        (Command::ExpireLease { lease, .. }, Outcome::Expired(false)) => {
            vec![format!("lease {} was renewed, or is gone: nothing ends", lease.0)]
        }
        (other, outcome) => {
            vec![format!("{}: {}", self::command(other, who_asked), self::outcome(outcome))]
        }
    };
    for ended in &effects.ended {
        let (grant, end) = (ended.tenure().expect("as it was written").grant, self::end(ended.end));
        said.push(format!(
            "{} no longer holds {}, token {} is {end}",
            grant.owner, grant.name, grant.token
        ));
    }
    for (request_id, reason) in &effects.dropped {
        let why = match reason {
            DropReason::Cancelled => "is cancelled",
            DropReason::SessionEnded => "ends with its session",
        };
        said.push(format!("{} {why}", who_asked(*request_id)));
    }
    said.extend(effects.granted.iter().map(|grant| format!("next in line: {}", grants(grant))));
    said.join("; ")
}

fn grants(grant: &Grant) -> String {
    format!("{} holds {}{} with token {}", grant.owner, grant.name, mode(grant.mode), grant.token)
}

fn end(end: EndKind) -> &'static str {
    match end {
        EndKind::Released => "released",
        EndKind::Expired => "expired",
        EndKind::Broken => "broken",
    }
}

fn outcome(outcome: &Outcome) -> String {
    let now = |current: &Token| match current.0 {
        0 => "free now".to_owned(),
        token => format!("token {token} holds it now"),
    };
    match outcome {
        Outcome::Unheard => unreachable!("the twin is heard"),
        Outcome::Granted(grant) => format!("granted with token {}", grant.token),
        Outcome::Queued => "queued".to_owned(),
        Outcome::Renewed { renewals, .. } => format!("renewed, renewal {renewals}"),
        Outcome::Released { already: false } => "released".to_owned(),
        Outcome::Released { already: true } => "released already".to_owned(),
        Outcome::HeartbeatOk(alive) if alive.broken.is_empty() => "renewed".to_owned(),
        Outcome::HeartbeatOk(alive) => {
            let tokens: Vec<String> = alive.broken.iter().map(Token::to_string).collect();
            format!("renewed, and lost to breaks: {}", tokens.join(", "))
        }
        Outcome::Closed { released } => format!("closed, {released} released"),
        Outcome::Cancelled => "cancelled".to_owned(),
        Outcome::NotWaiting => "was not waiting".to_owned(),
        Outcome::Broken(tenure) => format!("broken, was {}'s", tenure.grant.owner),
        Outcome::Expired(ended) => format!("expired: {ended}"),
        Outcome::Held { token, owner } => format!("HELD by {owner} with token {token}"),
        Outcome::NotOwner { current } => format!("NOT_OWNER, {}", now(current)),
        Outcome::LeaseExpired { current } => format!("EXPIRED, {}", now(current)),
        Outcome::SessionLost => "SESSION_LOST".to_owned(),
        Outcome::AlreadyEnded { token, end } => {
            format!("over: it had token {token}, {}", self::end(*end))
        }
        Outcome::CancelledBefore => "WAIT_CANCELLED, it was given up before".to_owned(),
        Outcome::Conflict(what) => format!("CONFLICT: {what}"),
        Outcome::Full(what) => format!("FULL: {what}"),
        Outcome::OverQuota { principal, bound, quota, .. } => {
            format!("OVER QUOTA: {principal} has its {quota} {bound:?}")
        }
    }
}

pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done(done) => outcome(done),
        Reply::Applied(applied) => format!("{applied:?}"),
        Reply::WaitTimeout => "WAIT_TIMEOUT".to_owned(),
        Reply::WaitCancelled => "WAIT_CANCELLED".to_owned(),
        Reply::Superseded => "a newer attempt waits in its place".to_owned(),
        Reply::NotLeader { hint, .. } => match hint {
            Some(node) => format!("NOT_LEADER, ask n{node}; nothing was done"),
            None => "NOT_LEADER; nothing was done".to_owned(),
        },
        Reply::NoLeader => "NO_LEADER; nothing was done".to_owned(),
        Reply::Busy => "BUSY; nothing was done".to_owned(),
        Reply::Unknown => "OUTCOME_UNKNOWN".to_owned(),
        Reply::Read {
            answer: Answer::Check { holders, waiters, .. },
            applied_index,
            stale_by_ms,
        } => {
            let held: Vec<String> = holders
                .iter()
                .map(|grant| format!("{} with token {}", grant.owner, grant.token))
                .collect();
            let held = if held.is_empty() {
                "free".to_owned()
            } else {
                format!("held by {}", held.join(" and "))
            };
            let waiters =
                if *waiters == 0 { String::new() } else { format!(", waiters {waiters}") };
            let stale = if *stale_by_ms == 0 {
                String::new()
            } else {
                format!(", stale by {stale_by_ms} ms")
            };
            format!("{held}{waiters} (as of {applied_index}{stale})")
        }
        Reply::Read { answer, .. } => format!("{answer:?}"),
    }
}

/// A peer's message; `None` for the heartbeats that only say "I am here".
pub fn message(message: &Message) -> Option<String> {
    let log_end = || format!("log ends at {} of term {}", message.index, message.log_term);
    let yes_or_no = if message.reject { "no" } else { "yes" };
    Some(match message.msg_type() {
        MessageType::MsgAppend => match (message.entries.first(), message.entries.last()) {
            (Some(first), Some(last)) => {
                format!(
                    "append {}, commit {}, term {}",
                    span(first.index, last.index),
                    message.commit,
                    message.term
                )
            }
            _ => format!(
                "commit {}, nothing new after {}, term {}",
                message.commit, message.index, message.term
            ),
        },
        MessageType::MsgAppendResponse if message.reject => {
            format!(
                "refuses what follows {}: its log ends at {}",
                message.index, message.reject_hint
            )
        }
        MessageType::MsgAppendResponse => format!("has {}", message.index),
        MessageType::MsgRequestPreVote => {
            format!("would you vote for term {}? {}", message.term, log_end())
        }
        MessageType::MsgRequestPreVoteResponse => format!("would vote: {yes_or_no}"),
        MessageType::MsgRequestVote => format!("vote for term {}? {}", message.term, log_end()),
        MessageType::MsgRequestVoteResponse => format!("vote: {yes_or_no}, term {}", message.term),
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse
            if message.context.is_empty() =>
        {
            return None;
        }
        MessageType::MsgHeartbeat => {
            format!("do I lead term {}? {}", message.term, read(&message.context))
        }
        MessageType::MsgHeartbeatResponse => format!("you do; {}", read(&message.context)),
        MessageType::MsgReadIndex => format!("how far is it committed? {}", read(context(message))),
        MessageType::MsgReadIndexResp => {
            format!("committed up to {}; {}", message.index, read(context(message)))
        }
        MessageType::MsgSnapshot => {
            format!("snapshot at {}", message.get_snapshot().get_metadata().index)
        }
        MessageType::MsgTimeoutNow => "take over now".to_owned(),
        other => format!("{other:?}"),
    })
}

fn context(message: &Message) -> &[u8] {
    message.entries.first().map_or(&[], |entry| &entry.data)
}

/// A read's context: (node, boot, sequence), each 8 bytes.
fn read(context: &[u8]) -> String {
    let numbers: Vec<u64> = context
        .chunks_exact(8)
        .map(|part| u64::from_be_bytes(part.try_into().expect("8 bytes")))
        .collect();
    match numbers[..] {
        [node, boot, sequence] => format!("read n{node}/{boot}/{sequence}"),
        _ => format!("read {context:02x?}"),
    }
}

pub fn hard_state(state: &HardState) -> String {
    let vote =
        if state.vote == 0 { String::new() } else { format!(", vote for {}", member(state.vote)) };
    format!("term {}{vote}, commit {}", state.term, state.commit)
}

/// The first byte of a wish for members (`src/parts/group.rs`).
pub const WISH: u8 = 2;
const WISH_VERSION_AT: usize = 5;
const WISH_IDS_AT: usize = 17;

/// The length of the wish that these bytes begin with, or 0.
pub fn wish_len(bytes: &[u8]) -> usize {
    match bytes.first() {
        Some(&WISH) => {
            let count = bytes[WISH_IDS_AT - 4..WISH_IDS_AT].try_into().expect("4 bytes");
            WISH_IDS_AT + 8 * u32::from_le_bytes(count) as usize
        }
        _ => 0,
    }
}

/// The first byte of a level (`src/parts/level.rs`).
pub const LEVEL: u8 = 5;
const LEVEL_AT: usize = 5;
const LEVEL_RECORD_BYTES: usize = 17;

/// The length of what the group keeps before the position in an applied record.
pub fn kept_len(bytes: &[u8]) -> usize {
    let wish = wish_len(bytes);
    let level = if bytes.get(wish) == Some(&LEVEL) { LEVEL_RECORD_BYTES } else { 0 };
    wish + level
}

fn level(bytes: &[u8]) -> String {
    let level = bytes[LEVEL_AT..LEVEL_AT + 4].try_into().expect("4 bytes");
    format!("level {} from here on", u32::from_le_bytes(level))
}

fn wish(bytes: &[u8]) -> String {
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
    let version = number(&bytes[WISH_VERSION_AT..WISH_VERSION_AT + 8]);
    let ids = bytes[WISH_IDS_AT..wish_len(bytes)].chunks_exact(8);
    let members: Vec<String> = ids.map(|id| member(number(id))).collect();
    format!("wish {version}: {} shall be members", members.join(" "))
}

/// A change of members, a wish for them, a level, or an empty entry: a leader begins with one, and has
/// one follow a removal.
pub fn special_entry(entry: &Entry) -> String {
    if entry.data.first() == Some(&LEVEL) && entry.entry_type() == EntryType::EntryNormal {
        return level(&entry.data);
    }
    if entry.data.first() == Some(&WISH) && entry.entry_type() == EntryType::EntryNormal {
        return wish(&entry.data);
    }
    if entry.entry_type() == EntryType::EntryNormal {
        return "nothing".to_owned();
    }
    let change = ConfChange::decode(entry.data.as_slice()).expect("a change of the replica's own");
    let what = match change.change_type() {
        ConfChangeType::AddNode => "votes from now on",
        ConfChangeType::RemoveNode => "is no member any more",
        ConfChangeType::AddLearnerNode => "learns, without a vote",
    };
    format!("{} {what}", member(change.node_id))
}

/// First and last of entries that were given in order.
pub fn entries(entries: &[Entry]) -> Option<String> {
    Some(span(entries.first()?.index, entries.last()?.index))
}
