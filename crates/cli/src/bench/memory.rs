//! How fast the machine is at the moment, as far as that is not its own doing: how long a read takes that its nearest caches do
//! not have.
//!
//! On machines whose caches others share, the same work takes up to a half longer at one moment than at another, and this
//! latency moves with it. Every core reads at the same time, each an address that the read before it gave, from more than a core's
//! own caches have. It knows nothing of what else is measured.

use rand::seq::SliceRandom;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// More than a core's own cache, less than the caches that cores share.
const RING_BYTES: usize = 16 << 20;
/// One read brings a cache line.
const LINE_BYTES: usize = 64;
/// Reads between two looks at the clock.
const STRETCH: u32 = 10_000;
/// How long one measurement takes.
const SPAN: Duration = Duration::from_millis(500);

/// A cache line that says which one is next.
#[derive(Clone)]
#[repr(align(64))]
struct Line(u32);

/// One read in nanoseconds, the mean over all cores for half a second, in which nothing else should run.
pub fn read_ns() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let readers: Vec<_> = (0..cores).map(|_| std::thread::spawn(|| reads(&ring(), SPAN))).collect();
    let times = readers.into_iter().map(|reader| reader.join().expect("reading its own memory does not panic"));
    times.sum::<f64>() / cores as f64
}

/// All lines in one circle, in random order.
fn ring() -> Vec<Line> {
    let count = RING_BYTES / LINE_BYTES;
    let mut order: Vec<u32> = (0..count as u32).collect();
    order.shuffle(&mut rand::rng());
    let mut ring = vec![Line(0); count];
    for (at, line) in order.iter().enumerate() {
        ring[*line as usize] = Line(order[(at + 1) % count]);
    }
    ring
}

/// Nanoseconds per read.
fn reads(ring: &[Line], span: Duration) -> f64 {
    let (mut at, mut count, began) = (0, 0_u64, Instant::now());
    loop {
        for _ in 0..STRETCH {
            at = ring[at as usize].0;
        }
        count += u64::from(STRETCH);
        let took = began.elapsed();
        if took >= span {
            black_box(at);
            return took.as_nanos() as f64 / count as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_comes_by_every_line_before_it_is_back() {
        let ring = ring();
        let (mut at, mut seen) = (0, 0);
        loop {
            at = ring[at as usize].0;
            seen += 1;
            if at == 0 {
                break;
            }
        }
        assert_eq!(seen, RING_BYTES / LINE_BYTES);
    }
}
