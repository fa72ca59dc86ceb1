//! A shard's replicas in one thread, with an instant disk and network.
//!
//! The bench measures the cost of consensus and apply per operation, for all replicas together.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use palisade_benches::workload::Group;

fn shard(c: &mut Criterion) {
    let mut criterion_group = c.benchmark_group("acquire and release");
    criterion_group.sample_size(20);
    for (replicas, outstanding) in [(1, 64), (3, 1), (3, 64), (3, 512), (5, 64)] {
        let mut group = Group::new(replicas);
        let mut next = 0;
        criterion_group.throughput(Throughput::Elements(2 * outstanding));
        criterion_group.bench_function(
            format!("{replicas} replicas, {outstanding} outstanding"),
            |b| {
                b.iter(|| {
                    group.acquire_release(next..next + outstanding);
                    next += outstanding;
                    group.tick();
                });
            },
        );
    }
    criterion_group.finish();
}

criterion_group!(benches, shard);
criterion_main!(benches);
