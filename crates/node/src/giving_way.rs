//! Work that takes a processor for long: on threads of its own, which give way to those that serve.

use tokio::sync::oneshot;

/// The work has no result: its thread did not start, or panicked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoResult {
    #[error("a thread did not start: {0}")]
    Thread(#[from] std::io::Error),
    #[error("it panicked")]
    Panic,
}

/// Runs work on a thread with a low priority. Callers bound how much runs at the same time.
///
/// If the caller stops waiting, the work goes on to its end.
pub(crate) async fn giving_way<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NoResult> {
    let (done, result) = oneshot::channel();
    std::thread::Builder::new().name("background".into()).spawn(move || {
        storage::give_way();
        let _ = done.send(work()); // nobody waits any more
    })?;
    result.await.map_err(|_| NoResult::Panic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_ends_with_its_result_and_a_panic_without_one() {
        assert_eq!(giving_way(|| 6 * 7).await.unwrap(), 42);
        let panicked = giving_way(|| panic!("as it should")).await;
        assert!(matches!(panicked, Err::<(), _>(NoResult::Panic)), "{panicked:?}");
    }
}
