//! The trace that the operations of a task belong to.

use tokio::task_local;
use tonic::Request;
use tonic::metadata::MetadataValue;
use wire::limits::TRACEPARENT_BYTES_MAX;

task_local! {
    static TRACEPARENT: String;
}

/// Runs a future, whose operations belong to the trace with this `traceparent` (W3C Trace Context).
/// Gateways and nodes that export traces record them then.
///
/// Work that goes on in the background, such as the renewals of a guard, does not belong to it. Text
/// of more than 256 bytes is left out.
///
/// ```no_run
/// # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::Error> {
/// let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let guard = palisade_client::in_trace(traceparent, client.lock("orders:42")).await?;
/// # Ok(())
/// # }
/// ```
pub async fn in_trace<F: Future>(traceparent: impl Into<String>, future: F) -> F::Output {
    let mut traceparent = traceparent.into();
    if traceparent.len() > TRACEPARENT_BYTES_MAX {
        traceparent.clear();
    }
    TRACEPARENT.scope(traceparent, future).await
}

/// The `traceparent` of the running task. Empty: none.
pub(crate) fn traceparent() -> String {
    TRACEPARENT.try_with(String::clone).unwrap_or_default()
}

/// Puts the trace of the running task on a call. Text that no header can hold is left out.
pub(crate) fn put<T>(request: &mut Request<T>) {
    if let Ok(text) = MetadataValue::try_from(traceparent())
        && !text.is_empty()
    {
        request.metadata_mut().insert("traceparent", text);
    }
}
