//! The sites of the bugs that are planted in this crate, one hook for each. A build without planted
//! bugs has nothing but the first argument of each hook, and `expire_without_quorum` does nothing.

use crate::api::{Now, Reply};
use crate::machine::Machine;
use crate::parts::timers::Timers;
use locks::{Command, Effects, Event, LeaseId, LockTable, Stamp};
use planted::Bug;
use raft::eraftpb::Message;
use raft::{Raft, Storage};

/// The incarnation of a node. With [`Bug::ReseededUnderOldName`] a re-seeded replica has its old
/// id, and no replica hears that the node has forgotten everything.
#[inline]
pub(crate) fn incarnation(shipped: u32) -> u32 {
    if planted::is(Bug::ReseededUnderOldName) { 0 } else { shipped }
}

/// Whether a learner is caught up. With [`Bug::LearnerPromotedEarly`] every learner is.
#[inline]
pub(crate) fn is_caught_up(shipped: bool) -> bool {
    shipped || planted::is(Bug::LearnerPromotedEarly)
}

/// Whether a leader may remove this voter. With [`Bug::LeaderRemovesItself`] it may remove itself.
#[inline]
pub(crate) fn may_remove(shipped: bool) -> bool {
    shipped || planted::is(Bug::LeaderRemovesItself)
}

/// Whether a leader that is no voter steps down. With [`Bug::LeaderRemovesItself`] it leads on.
#[inline]
pub(crate) fn steps_down(shipped: bool) -> bool {
    shipped && !planted::is(Bug::LeaderRemovesItself)
}

/// With [`Bug::TwoChangesAtOnce`] a leader forgets that a change of members is under way, and so
/// does raft-rs.
#[inline]
pub(crate) fn forget_change_under_way(raft: &mut Raft<impl Storage>) {
    if planted::is(Bug::TwoChangesAtOnce) {
        raft.pending_conf_index = 0;
    }
}

/// The place of a voter among those that are to go, by whether it was heard of. With
/// [`Bug::LiveRemovedBeforeDead`] those that live go first.
#[inline]
pub(crate) fn goes_after(shipped: bool) -> bool {
    shipped != planted::is(Bug::LiveRemovedBeforeDead)
}

/// Whether a wish for members is taken. With [`Bug::OldWishWins`] any is that differs.
#[inline]
pub(crate) fn takes_wish(shipped: bool, differs: bool) -> bool {
    shipped || differs && planted::is(Bug::OldWishWins)
}

/// The level that a leader proposes. With [`Bug::CommandAheadOfLevel`] it is the highest of the
/// leader's own build, whether the topology has activated it or not.
#[inline]
pub(crate) fn level_told(shipped: u32) -> u32 {
    if planted::is(Bug::CommandAheadOfLevel) { topology::KNOWN_LEVELS.max } else { shipped }
}

/// Whether a replica may be destroyed. With [`Bug::DestroyedByHearsay`] one is as soon as it is not
/// wanted, whether its group counts on its vote or not.
#[inline]
pub(crate) fn is_out(shipped: bool, is_wanted: bool) -> bool {
    shipped || !is_wanted && planted::is(Bug::DestroyedByHearsay)
}

/// Whether a snapshot is dropped when members change. With [`Bug::SnapshotWithoutReceiver`] it is
/// kept, and sent to a replica that is no member in it.
#[inline]
pub(crate) fn drops_snapshot(shipped: bool) -> bool {
    shipped && !planted::is(Bug::SnapshotWithoutReceiver)
}

/// The birth of a founder of META. With [`Bug::FoundersOfTheFile`] it is that of the cluster's
/// beginning, whatever life the node has in shard 0 by now.
#[inline]
pub(crate) fn founder_birth(shipped: u32) -> u32 {
    if planted::is(Bug::FoundersOfTheFile) { 0 } else { shipped }
}

/// The answer to a proposal that was queued. There is none before it is committed and applied. With
/// [`Bug::ProposalToldEarly`] it is what the proposal does to the leader's topology.
#[inline]
pub(crate) fn told_queued(machine: &Machine, proposal: &[u8]) -> Option<Reply> {
    let Machine::Topology(machine) = machine else { return None };
    if !planted::is(Bug::ProposalToldEarly) {
        return None;
    }
    let mut topology = machine.topology().clone();
    topology.apply(&topology::Proposal::decode(proposal).ok()?).ok()?;
    Some(Reply::Applied(Ok(topology.version())))
}

/// The refusal of a heartbeat that counts on entries which are not in the log. With
/// [`Bug::ReseededUnderOldName`] the replica is sent all entries again, and goes on.
#[inline]
pub(crate) fn refused_heartbeat<E>(
    shipped: Result<(), E>,
    heartbeat: &mut Message,
) -> Result<(), E> {
    if planted::is(Bug::ReseededUnderOldName) {
        heartbeat.commit = 0;
        return Ok(());
    }
    shipped
}

/// The committed entry that an append contradicts. With [`Bug::ReseededUnderOldName`] none is seen.
#[inline]
pub(crate) fn contradicted(shipped: Option<u64>) -> Option<u64> {
    shipped.filter(|_| !planted::is(Bug::ReseededUnderOldName))
}

/// Whether raft-rs can take a message. With [`Bug::AppendsBatchedByRaft`] every message is taken.
#[inline]
pub(crate) fn checked_message<E>(shipped: Result<(), E>) -> Result<(), E> {
    if planted::is(Bug::AppendsBatchedByRaft) { Ok(()) } else { shipped }
}

/// Whether raft-rs adds new entries to appends that are still to be sent. With
/// [`Bug::AppendsBatchedByRaft`] it does.
#[inline]
pub(crate) fn appends_are_batched(shipped: bool) -> bool {
    shipped || planted::is(Bug::AppendsBatchedByRaft)
}

/// The number of an attempt to confirm reads. With [`Bug::ReadContextReused`] every attempt has the
/// same.
#[inline]
pub(crate) fn attempt_number(shipped: u64) -> u64 {
    if planted::is(Bug::ReadContextReused) { 1 } else { shipped }
}

/// The moment of an observation. With [`Bug::EarlyRest`] the shard time of the last entry counts
/// from the moment of the first.
#[inline]
pub(crate) fn observed_ms(shipped: u64, first_ms: u64) -> u64 {
    if planted::is(Bug::EarlyRest) { first_ms } else { shipped }
}

/// The end of a lease under a new leader. With [`Bug::RestartsFullTtl`] it is as if the lease had
/// just been renewed.
#[inline]
pub(crate) fn rest_ends_ms(shipped: u64, renewed_now_ms: u64) -> u64 {
    if planted::is(Bug::RestartsFullTtl) { renewed_now_ms } else { shipped }
}

/// The end of a lease under a new leader. With [`Bug::EarlyTtlAfterFailover`] every lease seems
/// older than it is.
#[inline]
pub(crate) fn taken_over_until_ms(shipped: u64, ttl_ms: u32) -> u64 {
    let early = planted::is(Bug::EarlyTtlAfterFailover);
    if early { shipped.saturating_sub(u64::from(ttl_ms) * 9 / 10) } else { shipped }
}

/// The stamp of a new entry. With [`Bug::StampBeforeClock`] a leader without a running clock takes
/// the time of the last entry, as if that was now.
#[inline]
pub(crate) fn stamp_ms(shipped: Option<u64>, table_ms: u64) -> Option<u64> {
    if planted::is(Bug::StampBeforeClock) { shipped.or(Some(table_ms)) } else { shipped }
}

/// Whether the messages of a `Ready` wait for its sync. With [`Bug::AckBeforeFsync`] entries are
/// acknowledged before they are on disk.
#[inline]
pub(crate) fn waits_for_sync(shipped: bool) -> bool {
    shipped && !planted::is(Bug::AckBeforeFsync)
}

/// The hard state to write. With [`Bug::VoteNotWritten`] a vote is forgotten with the process.
#[inline]
pub(crate) fn written_hard_state<T>(shipped: Option<T>) -> Option<T> {
    shipped.filter(|_| !planted::is(Bug::VoteNotWritten))
}

/// Whether a read needs a round. With [`Bug::ReadsWhileDeposed`] a leader answers without one, even
/// if it has been deposed.
#[inline]
pub(crate) fn needs_round(shipped: bool, leads: bool) -> bool {
    shipped && !(leads && planted::is(Bug::ReadsWhileDeposed))
}

/// The table's changes in a checkpoint. With [`Bug::AppliedAheadOfState`] the applied index moves
/// on, and the state does not.
#[inline]
pub(crate) fn written_changes<C>(shipped: Vec<C>) -> Vec<C> {
    if planted::is(Bug::AppliedAheadOfState) { Vec::new() } else { shipped }
}

/// The ended grants that become history. With [`Bug::HistoryEndMissing`] only the leader writes
/// history.
#[inline]
pub(crate) fn recorded<E>(
    shipped: impl Iterator<Item = E>,
    leads: bool,
) -> impl Iterator<Item = E> {
    shipped.filter(move |_| leads || !planted::is(Bug::HistoryEndMissing))
}

/// The answer that waiters hear when their leader is deposed. With [`Bug::WaiterToldNotDone`] they
/// hear that nothing was done, although a grant may come of them yet.
#[inline]
pub(crate) fn told_deposed<'a, R>(shipped: &'a R, not_done: &'a R) -> &'a R {
    if planted::is(Bug::WaiterToldNotDone) { not_done } else { shipped }
}

/// With [`Bug::ExpiryWithoutQuorum`] a leader, deposed or not, ends due leases without asking the
/// others.
#[inline]
pub(crate) fn expire_without_quorum(
    leases: &mut Timers<LeaseId, u64>,
    table: &mut LockTable,
    now: Now,
) {
    if !planted::is(Bug::ExpiryWithoutQuorum) {
        return;
    }
    while let Some((lease, renewal_seq)) = leases.pop_due(now.mono_ms) {
        let stamp = Stamp { wall_ms: now.wall_ms, shard_ms: table.shard_ms() };
        let command = Command::ExpireLease { lease, renewal_seq };
        table.apply(stamp, &command, &mut Effects::default());
    }
}

/// The events of an applied entry. With [`Bug::WatchMissesNewTerm`] a leader does not tell those of
/// the terms before its own.
#[inline]
pub(crate) fn told_events(shipped: &mut Vec<Event>, is_of_former_term: bool) -> &mut Vec<Event> {
    if is_of_former_term && planted::is(Bug::WatchMissesNewTerm) {
        shipped.clear();
    }
    shipped
}

/// The events of an entry that is only proposed: none. With [`Bug::WatchTellsProposed`] a leader
/// tells them before a quorum has the entry.
#[inline]
pub(crate) fn told_early(table: Option<&LockTable>, entry: &[u8]) -> Vec<Event> {
    let Some(table) = table.filter(|_| planted::is(Bug::WatchTellsProposed)) else {
        return Vec::new();
    };
    let mut copy = LockTable::restore(&table.snapshot()).expect("it was just taken");
    let mut effects = Effects { watched: true, ..Effects::default() };
    let batch = locks::Batch::decode(entry).expect("it was just built");
    for (caller, command) in &batch.commands {
        copy.apply_as(batch.stamp, *caller, command, &mut effects);
    }
    effects.events
}
