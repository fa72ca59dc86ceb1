//! Drops history that is older than the settings allow, whole days at a time.
//!
//! A day is one of shard time, which runs with the monotonic clocks of the shard's leaders, and is
//! the same on all replicas. So wall clocks have no influence: one that is ahead drops nothing, and
//! one that was wrong keeps nothing for ever. Shard time stands still while the shard has no
//! leader. So history is kept for the days in the settings or longer, never shorter.

use crate::context::Context;
use routing::ShardId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// By this time the replicas have published their status.
const FIRST: Duration = Duration::from_secs(2);
const EVERY: Duration = Duration::from_secs(3_600);
const DAY_MS: u64 = 86_400_000;

/// The shards' times, as they continue where no command is applied.
///
/// * A shard's time is at most its applied time plus the time since the applied time last changed,
///   on this node's monotonic clock.
#[derive(Debug, Default)]
struct Times {
    /// Applied time, and the time on this node's clock at which it last changed.
    seen: BTreeMap<ShardId, (u64, u64)>,
}

impl Times {
    /// The first day of `shard` that is kept, with `days` full days before today.
    fn keep_from(&mut self, shard: ShardId, applied_ms: u64, now_ms: u64, days: u32) -> u32 {
        let seen = self.seen.entry(shard).or_insert((applied_ms, now_ms));
        if seen.0 != applied_ms {
            *seen = (applied_ms, now_ms);
        }
        let time_ms = applied_ms.saturating_add(now_ms.saturating_sub(seen.1));
        let today = u32::try_from(time_ms / DAY_MS).unwrap_or(u32::MAX);
        today.saturating_sub(days)
    }
}

/// Drops old history until the future is dropped: soon after the start, then hourly. Keeps `days`
/// full days before today.
pub(crate) async fn drop_old_history(context: Arc<Context>, days: u32) {
    let mut every = tokio::time::interval_at(tokio::time::Instant::now() + FIRST, EVERY);
    let mut times = Times::default();
    loop {
        every.tick().await;
        let now_ms = context.clock.mono_ms();
        let keep = context.board.all().into_iter().map(|status| {
            let shard = status.shard;
            (shard, times.keep_from(shard, status.shard_ms, now_ms, days))
        });
        let keep: Vec<(ShardId, u32)> = keep.collect();
        let engine = context.engine.clone();
        let dropped = tokio::task::spawn_blocking(move || {
            keep.into_iter()
                .try_for_each(|(shard, before)| engine.drop_history_before(shard, before))
        });
        match dropped.await {
            Ok(Ok(())) => tracing::info!(days, "history older than this was dropped"),
            Ok(Err(error)) => context.lifecycle.fail(error.to_string()),
            Err(error) => {
                tracing::warn!(%error, "old history was not dropped; trying again in an hour")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(0);
    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn history_is_dropped_as_the_shard_s_time_goes_on() {
        let mut times = Times::default();
        let kept = [0, 1, 29, 30, 31, 45].map(|day| times.keep_from(SHARD, day * DAY_MS, 0, 30));
        assert_eq!(kept, [0, 0, 0, 0, 1, 15]);
        assert_eq!(times.keep_from(SHARD, u64::MAX, 0, 30), u32::MAX - 30);
    }

    #[test]
    fn an_idle_shard_drops_history_as_this_node_runs_on() {
        let mut times = Times::default();
        let applied_ms = 40 * DAY_MS;
        assert_eq!(times.keep_from(SHARD, applied_ms, 5 * HOUR_MS, 30), 10);
        assert_eq!(
            times.keep_from(SHARD, applied_ms, 28 * HOUR_MS, 30),
            10,
            "not a day has passed here"
        );
        assert_eq!(times.keep_from(SHARD, applied_ms, 29 * HOUR_MS, 30), 11);
        // The time that passed while the shard was idle does not count twice.
        assert_eq!(times.keep_from(SHARD, applied_ms + DAY_MS, 29 * HOUR_MS, 30), 11);
        assert_eq!(
            times.keep_from(ShardId(1), applied_ms, 29 * HOUR_MS, 30),
            10,
            "each shard has its own"
        );
    }
}
