//! Which shard threads do not move any more.

use crate::limits::THREAD_STUCK_AFTER;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// When each shard thread was last seen to move on.
#[derive(Debug, Default)]
pub(crate) struct Moves(Mutex<Seen>);

/// * `threads` has the rounds that each thread had finished, and when that was new.
#[derive(Debug, Default)]
struct Seen {
    at: Option<Instant>,
    threads: Vec<(u64, Instant)>,
}

impl Moves {
    /// The threads that have finished no round for [`THREAD_STUCK_AFTER`]. `rounds` are those of
    /// [`Host::rounds`](crate::host::Host::rounds).
    pub(crate) fn stuck(&self, rounds: &[u64], now: Instant) -> Vec<usize> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // After a pause of the whole process, each thread has the full time again.
        let paused = seen.at.is_none_or(|at| now - at > THREAD_STUCK_AFTER / 2);
        seen.at = Some(now);
        seen.threads.resize(rounds.len(), (0, now));
        for (thread, round) in seen.threads.iter_mut().zip(rounds) {
            if paused || thread.0 != *round {
                *thread = (*round, now);
            }
        }
        let threads = seen.threads.iter().enumerate();
        threads
            .filter(|(_, (_, since))| now - *since >= THREAD_STUCK_AFTER)
            .map(|(thread, _)| thread)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: `/livez` answered as long as tokio worked.
    #[test]
    fn a_thread_that_does_not_move_is_stuck_unless_all_were_paused() {
        const NONE: [usize; 0] = [];
        let (moves, begun) = (Moves::default(), Instant::now());
        let at = |s| begun + std::time::Duration::from_secs(s);
        let stuck_s = THREAD_STUCK_AFTER.as_secs();
        for s in 0..stuck_s {
            assert_eq!(moves.stuck(&[s, 7], at(s)), NONE, "{s}");
        }
        assert_eq!(moves.stuck(&[stuck_s, 7], at(stuck_s)), [1]);
        assert_eq!(moves.stuck(&[stuck_s, 8], at(stuck_s + 1)), NONE);
        assert_eq!(moves.stuck(&[stuck_s, 8], at(5 * stuck_s)), NONE, "nobody looked");
    }
}
