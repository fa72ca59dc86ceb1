//! The pace of snapshots: all that a node sends, together.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Lets bytes leave at a rate. Whoever comes first goes first.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the bytes that were let through have left at the rate.
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Waits until these bytes may leave. `per_s` may be another one each time.
    pub(super) async fn leave(&self, bytes: usize, per_s: u64) {
        let takes = Duration::from_secs_f64(bytes as f64 / per_s.max(1) as f64);
        let at = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let at = free_at.unwrap_or(now).max(now);
            *free_at = Some(at + takes);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn two_senders_share_the_rate_and_rest_is_not_saved_up() {
        let (pace, began) = (Pace::default(), Instant::now());
        let send = async |times: usize| {
            for _ in 0..times {
                pace.leave(1_000, 10_000).await;
            }
        };
        tokio::join!(send(10), send(10));
        assert_eq!(began.elapsed().as_millis(), 1_900, "the twentieth leaves after nineteen");
        tokio::time::sleep(Duration::from_secs(60)).await;
        let again = Instant::now();
        send(3).await;
        assert_eq!(again.elapsed().as_millis(), 200);
    }
}
