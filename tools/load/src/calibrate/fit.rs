//! Computes costs from the counts under several loads: the cost per operation, and the cost per
//! event that many operations share.

/// One thread under one load: the counts of `N` kinds of events, and the processor time that all of
/// them took together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point<const N: usize> {
    /// Counts of operations, awakenings, and similar events.
    pub counts: [f64; N],
    /// Processor time in microseconds.
    pub us: f64,
}

/// Finds the non-negative costs of each kind that fit all points best, by least squares of relative
/// errors. If a cost cannot be told from others, the first of them gets it. Without points all
/// costs are zero. Also returns the remaining sum of squares.
pub fn least_squares<const N: usize>(points: &[Point<N>]) -> ([f64; N], f64) {
    let rows: Vec<[f64; N]> = points
        .iter()
        .filter(|point| point.us > 0.0)
        .map(|point| point.counts.map(|count| count / point.us))
        .collect();
    let error = |costs: &[f64; N]| -> f64 {
        rows.iter()
            .map(|row| (row.iter().zip(costs).map(|(a, b)| a * b).sum::<f64>() - 1.0).powi(2))
            .sum()
    };
    // Costs must not be negative, so some may be zero. Each choice is tried, those with few and
    // early costs first.
    let mut choices: Vec<u32> = (1..1 << N).collect();
    choices.sort_by_key(|chosen| (chosen.count_ones(), *chosen));
    let (mut best, mut least) = ([0.0; N], error(&[0.0; N]));
    for chosen in choices {
        if let Some(costs) = solve(&rows, |column| chosen & 1 << column != 0)
            && costs.iter().all(|cost| *cost >= 0.0)
            && error(&costs) < least - 1e-9
        {
            (best, least) = (costs, error(&costs));
        }
    }
    (best, least)
}

/// Least squares of `row · costs = 1` with the chosen columns, by the normal equations. `None`
/// means that the columns cannot be told apart.
fn solve<const N: usize>(rows: &[[f64; N]], chosen: impl Fn(usize) -> bool) -> Option<[f64; N]> {
    let columns: Vec<usize> = (0..N).filter(|column| chosen(*column)).collect();
    let sum = |of: &dyn Fn(&[f64; N]) -> f64| rows.iter().map(of).sum::<f64>();
    let mut equations: Vec<Vec<f64>> = (columns.iter())
        .map(|&i| {
            let left = columns.iter().map(|&j| sum(&|row| row[i] * row[j]));
            left.chain([sum(&|row| row[i])]).collect()
        })
        .collect();
    let own: Vec<f64> = (0..columns.len()).map(|i| equations[i][i]).collect();
    // Gauss-Jordan elimination. The matrix is positive, so the diagonal is a bad pivot only if
    // columns depend on each other.
    for i in 0..columns.len() {
        let pivot = equations[i].clone();
        if pivot[i] <= 1e-9 * own[i] {
            return None;
        }
        for (_, equation) in equations.iter_mut().enumerate().filter(|(at, _)| *at != i) {
            let factor = equation[i] / pivot[i];
            equation
                .iter_mut()
                .zip(&pivot)
                .for_each(|(value, of_pivot)| *value -= factor * of_pivot);
        }
    }
    let mut costs = [0.0; N];
    for (at, column) in columns.iter().enumerate() {
        costs[*column] = equations[at][columns.len()] / equations[at][at];
    }
    Some(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point<const N: usize>(counts: [f64; N], us: f64) -> Point<N> {
        Point { counts, us }
    }

    fn near<const N: usize>(found: [f64; N], costs: [f64; N]) -> bool {
        found.iter().zip(costs).all(|(found, cost)| (found - cost).abs() < 1e-6)
    }

    #[test]
    fn exact_costs_are_found() {
        let counts = [
            [1_000.0, 0.0, 900.0],
            [0.0, 8_000.0, 1_000.0],
            [60_000.0, 0.0, 300.0],
            [9_000.0, 9_000.0, 10.0],
        ];
        let costs = [3.0, 0.5, 80.0];
        let us = |counts: [f64; 3]| {
            counts.iter().zip(costs).map(|(count, cost)| count * cost).sum::<f64>()
        };
        let (found, left) = least_squares(&counts.map(|counts| point(counts, us(counts))));
        assert!(near(found, costs) && left < 1e-9, "{found:?} {left}");
    }

    #[test]
    fn costs_are_not_negative() {
        let ([per_op, per_batch], left) =
            least_squares(&[point([100.0, 100.0], 500.0), point([1_000.0, 100.0], 400.0)]);
        assert_eq!(per_op, 0.0);
        assert!(per_batch > 0.0 && left > 0.01, "{left}");
        let ([per_op, per_batch], _) =
            least_squares(&[point([100.0, 100.0], 100.0), point([100.0, 200.0], 90.0)]);
        assert!(per_op > 0.0 && per_batch == 0.0, "{per_op} {per_batch}");
    }

    #[test]
    fn what_cannot_be_told_apart_goes_to_the_first() {
        let (found, _) = least_squares(&[point([100.0, 10.0], 300.0), point([200.0, 20.0], 600.0)]);
        assert!(near(found, [3.0, 0.0]), "{found:?}");
        assert_eq!(least_squares::<2>(&[]), ([0.0, 0.0], 0.0));
    }
}
