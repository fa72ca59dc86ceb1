//! The bytes of the log and of checkpoints: encode and decode.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use locks::{Batch, Caller, Command, Effects, LeaseId, LockTable, Token};
use palisade_benches::workload::{acquire, batch, encoded, name, stamp};
use std::hint::black_box;

/// The commands in a batch. A busy shard packs as many into one entry.
const COMMANDS: u64 = 256;
const LOCKS: u64 = 10_000;

fn commands(c: &mut Criterion) {
    let names: Vec<String> = (0..COMMANDS).map(name).collect();
    let mut group = c.benchmark_group("command");
    let one = acquire(1, &names[0]);
    let bytes = encoded(Caller::default(), &one);
    let mut into = Vec::with_capacity(bytes.len());
    group.bench_function("encode acquire", |b| {
        b.iter(|| {
            into.clear();
            black_box(&one).encode(&mut into);
        });
    });
    group.bench_function("decode acquire", |b| {
        b.iter(|| Command::decode(black_box(&bytes)).map(drop))
    });
    group.finish();

    let mut group = c.benchmark_group("batch of 128 acquires and 128 releases");
    let mixed: Vec<Command<'_>> = (names.iter().zip(0..))
        .map(|(name, at)| {
            if at % 2 == 0 {
                acquire(at, name)
            } else {
                Command::Release { name, token: Token(at), by: Some(LeaseId(0)) }
            }
        })
        .collect();
    group.throughput(Throughput::Elements(COMMANDS));
    group.bench_function("encode", |b| b.iter(|| batch(stamp(1), &[], black_box(&mixed))));
    let entry = batch(stamp(1), &[], &mixed);
    group.bench_function("decode", |b| {
        b.iter(|| Batch::decode(black_box(&entry)).map(|batch| batch.commands.len()))
    });
    group.finish();
}

fn checkpoint(c: &mut Criterion) {
    let mut group = c.benchmark_group("checkpoint of 10,000 locks");
    group.throughput(Throughput::Elements(LOCKS));
    group.sample_size(20);
    let table = || {
        let (mut table, mut effects) = (LockTable::new(), Effects::default());
        for number in 0..LOCKS {
            table.apply(stamp(0), &acquire(number, &name(number)), &mut effects);
        }
        table
    };
    group.bench_function("build", |b| {
        b.iter_batched_ref(table, |table| black_box(table.checkpoint()), BatchSize::LargeInput);
    });
    let full = table();
    let bytes = full.snapshot();
    group.bench_function("snapshot", |b| b.iter(|| black_box(full.snapshot())));
    group.bench_function("restore", |b| b.iter(|| LockTable::restore(black_box(&bytes)).map(drop)));
    group.bench_function("state hash", |b| b.iter(|| black_box(full.state_hash())));
    group.finish();
}

criterion_group!(benches, commands, checkpoint);
criterion_main!(benches);
