//! From what was counted under several loads to costs: per operation, and per entry or sync that many operations share.

/// What one load showed of one thread: how often each happened, and the processor time that it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Operations.
    pub ops: f64,
    /// Entries, or syncs.
    pub batches: f64,
    /// Processor time.
    pub us: f64,
}

/// The costs (per operation, per batch), neither negative, that come nearest to all points by least squares of relative errors.
/// Zeros without points.
pub fn least_squares(points: &[Point]) -> (f64, f64) {
    let scaled =
        points.iter().filter(|point| point.us > 0.0).map(|point| (point.ops / point.us, point.batches / point.us));
    let (mut aa, mut ab, mut bb, mut a1, mut b1) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (a, b) in scaled {
        aa += a * a;
        ab += a * b;
        bb += b * b;
        a1 += a;
        b1 += b;
    }
    let alone = |own: f64, sum: f64| if own > 0.0 { sum / own } else { 0.0 };
    let determinant = aa * bb - ab * ab;
    if determinant <= 1e-9 * aa * bb {
        // They cannot be told apart: all goes to the operations.
        return (alone(aa, a1), 0.0);
    }
    let per_op = (a1 * bb - b1 * ab) / determinant;
    let per_batch = (b1 * aa - a1 * ab) / determinant;
    match (per_op < 0.0, per_batch < 0.0) {
        (true, _) => (0.0, alone(bb, b1)),
        (_, true) => (alone(aa, a1), 0.0),
        _ => (per_op, per_batch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(ops: f64, batches: f64, us: f64) -> Point {
        Point { ops, batches, us }
    }

    #[test]
    fn exact_costs_are_found() {
        let points = [(1_000.0, 900.0), (8_000.0, 1_000.0), (60_000.0, 300.0)];
        let (per_op, per_batch) =
            least_squares(&points.map(|(ops, batches)| point(ops, batches, 3.0 * ops + 80.0 * batches)));
        assert!((per_op - 3.0).abs() < 1e-9 && (per_batch - 80.0).abs() < 1e-6, "{per_op} {per_batch}");
    }

    #[test]
    fn costs_are_not_negative() {
        let (per_op, per_batch) = least_squares(&[point(100.0, 100.0, 500.0), point(1_000.0, 100.0, 400.0)]);
        assert_eq!(per_op, 0.0);
        assert!(per_batch > 0.0);
        let (per_op, per_batch) = least_squares(&[point(100.0, 100.0, 100.0), point(100.0, 200.0, 90.0)]);
        assert!(per_op > 0.0 && per_batch == 0.0, "{per_op} {per_batch}");
    }

    #[test]
    fn what_cannot_be_told_apart_is_per_operation() {
        let (per_op, per_batch) = least_squares(&[point(100.0, 10.0, 300.0), point(200.0, 20.0, 600.0)]);
        assert!((per_op - 3.0).abs() < 1e-9 && per_batch == 0.0, "{per_op} {per_batch}");
        assert_eq!(least_squares(&[]), (0.0, 0.0));
    }
}
