//! A summary of refusals in the log from time to time, instead of a line for each.

use crate::context::Context;
use crate::limits::REFUSALS_SAID_EVERY;
use std::sync::Arc;

/// Logs how many operations were refused since the last look. Never returns.
pub(crate) async fn say_refusals(context: Arc<Context>) {
    let (mut busy, mut over_quota) = (0, 0);
    loop {
        tokio::time::sleep(REFUSALS_SAID_EVERY).await;
        let metrics = &context.metrics;
        let now = (metrics.refused_as_busy(), metrics.quota_refusals.get());
        if now.1 > over_quota {
            let count = now.1 - over_quota;
            tracing::warn!(count, "refused acquires of identities that are at their quota");
        }
        // A refusal for a quota has the outcome "busy", too.
        let count = (now.0 - busy).saturating_sub(now.1 - over_quota);
        if count > 0 {
            let queued = context.host.queued_operations();
            tracing::warn!(
                count,
                queued,
                "refused operations as busy: a queue of this node is full"
            );
        }
        (busy, over_quota) = now;
    }
}
