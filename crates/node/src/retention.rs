//! History older than the settings say is dropped, whole days at a time.

use crate::context::Context;
use std::sync::Arc;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(3_600);

/// Runs until it is dropped: at once, then hourly. Keeps `days` full days before today.
pub(crate) async fn drop_old_history(context: Arc<Context>, days: u32) {
    let mut every = tokio::time::interval(EVERY);
    loop {
        every.tick().await;
        let before = context.clock.today().saturating_sub(days);
        let shards: Vec<_> = context.map.hosted_by(context.id).collect();
        let engine = context.engine.clone();
        let dropped = tokio::task::spawn_blocking(move || {
            shards.into_iter().try_for_each(|shard| engine.drop_history_before(shard, before))
        });
        match dropped.await {
            Ok(Ok(())) => tracing::debug!(before_day = before, "old history dropped"),
            Ok(Err(error)) => context.lifecycle.fail(error.to_string()),
            Err(error) => tracing::warn!(%error, "old history was not dropped; trying again in an hour"),
        }
    }
}
