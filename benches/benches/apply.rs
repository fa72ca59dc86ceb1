//! The lock table alone: the cost of applying one command.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use locks::{Command, Effects, LeaseId, LockTable, Outcome, REQUEST_MEMORY_MS};
use palisade_benches::workload::{OWNER, acquire, granted, name, stamp};
use std::hint::black_box;

/// The locks that are held while others come and go.
const HELD: u64 = 100_000;
/// The replicas of five nodes with four shards each.
const TABLES: usize = 20;

fn table() -> (LockTable, Effects) {
    let (mut table, mut effects) = (LockTable::new(), Effects::default());
    for number in 0..HELD {
        table.apply(stamp(0), &acquire(number, &name(number)), &mut effects);
        effects = Effects::default();
    }
    (table, effects)
}

fn clear(effects: &mut Effects) {
    effects.granted.clear();
    effects.dropped.clear();
    effects.leases.clear();
    effects.ended.clear();
}

fn apply(c: &mut Criterion) {
    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(2));
    let (mut held, mut effects) = table();
    let mut number = HELD;
    group.bench_function("acquire and release", |b| {
        b.iter(|| {
            number += 1;
            let name = name(number);
            // A release is remembered for 30 s of this time, at 10,000 such pairs a second.
            let at = stamp(number / 10);
            let token = granted(&held.apply(at, &acquire(number, &name), &mut effects));
            black_box(held.apply(
                at,
                &Command::Release { name: &name, token, by: Some(LeaseId(0)) },
                &mut effects,
            ));
            clear(&mut effects);
            if held.dirty_len() > 16_384 {
                held.checkpoint();
            }
        });
    });
    // As on a node, tables of many shards share the caches. Each table remembers half a minute of
    // ended grants, at 5,000 a second.
    let mut tables: Vec<_> = (0..TABLES).map(|_| (LockTable::new(), Effects::default())).collect();
    let mut run = |number: u64| {
        let name = name(number);
        let (table, effects) = &mut tables[number as usize % TABLES];
        let at = stamp(number / TABLES as u64 / 5);
        let token = granted(&table.apply(at, &acquire(number, &name), effects));
        black_box(table.apply(
            at,
            &Command::Release { name: &name, token, by: Some(LeaseId(0)) },
            effects,
        ));
        clear(effects);
        if table.dirty_len() > 16_384 {
            table.checkpoint();
        }
    };
    let mut number = 0;
    group.bench_function("acquire and release, in twenty tables", |b| {
        while number < TABLES as u64 * 5 * REQUEST_MEMORY_MS {
            run(number);
            number += 1;
        }
        b.iter(|| {
            run(number);
            number += 1;
        });
    });
    group.throughput(Throughput::Elements(1));

    let (mut held, mut effects) = table();
    let kept = name(7);
    let token = held.holders(&kept, stamp(1))[0].token;
    let renewed = held.apply(stamp(1), &Command::Renew { name: &kept, token }, &mut effects);
    assert!(matches!(renewed, Outcome::Renewed { .. }), "{renewed:?}");
    group.bench_function("renew", |b| {
        b.iter(|| {
            black_box(held.apply(stamp(1), &Command::Renew { name: &kept, token }, &mut effects));
            clear(&mut effects);
        });
    });
    group.bench_function("held by another", |b| {
        b.iter(|| {
            number += 1;
            black_box(held.apply(stamp(1), &acquire(number, &kept), &mut effects));
            clear(&mut effects);
        });
    });
    for locks in [1, 1_000] {
        let mut sessions = LockTable::new();
        for number in 0..locks {
            let name = name(number);
            let Command::Acquire {
                request_id,
                name,
                owner,
                ttl_ms,
                mode,
                wait,
                metadata,
                claim_ttl_ms,
                ..
            } = acquire(number, &name)
            else {
                unreachable!("it is an acquire")
            };
            let session = "session-1";
            let command = Command::Acquire {
                request_id,
                name,
                owner,
                ttl_ms,
                mode,
                wait,
                session,
                metadata,
                claim_ttl_ms,
            };
            granted(&sessions.apply(stamp(0), &command, &mut effects));
        }
        let heartbeat =
            Command::Heartbeat { session: "session-1", life: LeaseId(0), broken_seen: 0 };
        let alive = sessions.apply(stamp(1), &heartbeat, &mut effects);
        assert!(matches!(alive, Outcome::HeartbeatOk(_)), "{alive:?}");
        clear(&mut effects);
        group.bench_function(format!("heartbeat of {locks} locks"), |b| {
            b.iter(|| {
                black_box(sessions.apply(stamp(1), &heartbeat, &mut effects));
                clear(&mut effects);
            });
        });
    }
    group.bench_function("check", |b| b.iter(|| black_box(held.holders(&kept, stamp(1)))));
    assert_eq!(OWNER.len(), 50);
    group.finish();
}

criterion_group!(benches, apply);
criterion_main!(benches);
