//! Fixed work for counting instructions: `instructions apply|shard OPERATIONS [IDENTITIES]`.
//!
//! `scripts/instructions` runs each kind twice with different counts and divides the difference, so
//! that set-up does not count.

use locks::{Batch, Command, Effects, LeaseId, LockTable};
use palisade_benches::workload::{Group, acquire, batch, granted, name, principals, stamp};
use std::hint::black_box;

/// Commands per entry, half of them acquires.
const PER_ENTRY: u64 = 128;

fn main() {
    let mut args = std::env::args().skip(1);
    let (part, operations) = (args.next(), args.next().and_then(|count| count.parse::<u64>().ok()));
    let identities = args.next().map_or(Some(0), |count| count.parse::<u64>().ok());
    let callers = identities.map(principals);
    match (part.as_deref(), operations, callers) {
        (Some("apply"), Some(operations), Some(callers)) => apply(operations, &callers),
        (Some("shard"), Some(operations), Some(callers)) => shard(operations, &callers),
        _ => {
            eprintln!("usage: instructions apply|shard OPERATIONS [IDENTITIES]");
            std::process::exit(2);
        }
    }
}

/// Decodes committed entries and applies them, as a replica does. Building the entries counts too,
/// as the leader's share.
fn apply(operations: u64, principals: &[String]) {
    let (mut table, mut effects) = (LockTable::new(), Effects::default());
    let mut run = |at: u64, commands: &[Command<'_>]| -> Vec<locks::Outcome> {
        let entry = batch(stamp(at), principals, commands);
        let decoded = Batch::decode(&entry).expect("our own bytes");
        let outcomes = decoded
            .commands
            .iter()
            .map(|(caller, command)| table.apply_as(decoded.stamp, *caller, command, &mut effects))
            .collect();
        effects = black_box(Effects::default());
        if table.dirty_len() > 16_384 {
            black_box(table.checkpoint());
        }
        outcomes
    };
    for round in 0..operations / (2 * PER_ENTRY) {
        let numbers = round * PER_ENTRY..(round + 1) * PER_ENTRY;
        let names: Vec<String> = numbers.clone().map(name).collect();
        let acquires: Vec<Command<'_>> =
            numbers.zip(&names).map(|(number, name)| acquire(number, name)).collect();
        let tokens: Vec<_> = run(round * 10, &acquires).iter().map(granted).collect();
        let releases: Vec<Command<'_>> = names
            .iter()
            .zip(tokens)
            .map(|(name, token)| Command::Release { name, token, by: Some(LeaseId(0)) })
            .collect();
        black_box(run(round * 10, &releases));
    }
}

/// Three replicas in memory: propose, replicate, apply, answer.
fn shard(operations: u64, principals: &[String]) {
    let mut group = Group::new(3);
    group.principals = principals.to_vec();
    for round in 0..operations / (2 * PER_ENTRY) {
        group.acquire_release(round * PER_ENTRY..(round + 1) * PER_ENTRY);
        if round % 8 == 7 {
            group.tick();
        }
    }
}
