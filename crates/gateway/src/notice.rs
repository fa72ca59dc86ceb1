//! The notice that ends the streams and watches of a gateway that stops.
//!
//! If all of them ended in one moment, their clients would dial the next gateway in one moment. Its
//! own clients would wait for that many handshakes. So each ends at a random time of its own.

use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// The time for each stream or watch to go elsewhere. A handshake takes about a millisecond of
/// processor time at each of its two ends.
const EACH: Duration = Duration::from_millis(5);
/// The time for all of them.
const ALL_MAX: Duration = Duration::from_secs(5);

/// What a gateway tells its streams and watches.
#[derive(Clone, Copy, Debug)]
enum Told {
    Stay,
    /// Those that are open end one by one within this time.
    GoWithin(Duration),
    End,
}

/// The gateway's side.
#[derive(Debug)]
pub(crate) struct Notices(watch::Sender<Told>);

impl Notices {
    pub(crate) fn new() -> Notices {
        Notices(watch::Sender::new(Told::Stay))
    }

    /// Tells all that are open to end one by one. Returns the time that `count` of them have for it.
    pub(crate) fn go(&self, count: usize) -> Duration {
        let within = EACH.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).min(ALL_MAX);
        self.0.send_replace(Told::GoWithin(within));
        within
    }

    /// Tells all to end now.
    pub(crate) fn end(&self) {
        self.0.send_replace(Told::End);
    }

    /// For a stream or watch that opens now.
    ///
    /// One that opens while others go ends with the gateway. Its client has come back, so it may
    /// have no other gateway to go to.
    pub(crate) fn notice(&self) -> Notice {
        let told = self.0.subscribe();
        let stays = matches!(*told.borrow(), Told::GoWithin(_));
        Notice { told, stays, at: None }
    }
}

/// The side of one stream or watch.
#[derive(Debug)]
pub(crate) struct Notice {
    told: watch::Receiver<Told>,
    /// It ends with the gateway, and not before.
    stays: bool,
    /// The time at which it ends, if it was told to go.
    at: Option<Instant>,
}

impl Notice {
    /// Returns once the stream or watch has to end. A future that is dropped forgets nothing.
    pub(crate) async fn given(&mut self) {
        let stays = self.stays || self.at.is_some();
        let due = async |at| match at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        };
        let within = tokio::select! {
            told = self.told.wait_for(|told| match told {
                Told::Stay => false,
                Told::GoWithin(_) => !stays,
                Told::End => true,
            }) => match told.map(|told| *told) {
                Ok(Told::GoWithin(within)) => within,
                // Without a sender there is no gateway either.
                _ => return,
            },
            () = due(self.at) => return,
        };
        self.at = Some(Instant::now() + within.mul_f64(rand::random()));
        tokio::select! {
            () = due(self.at) => {}
            _ = self.told.wait_for(|told| matches!(told, Told::End)) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::task::unconstrained;

    fn is_given(notice: &mut Notice) -> bool {
        // Without the runtime's budget, which ends within this many.
        unconstrained(notice.given()).now_or_never().is_some()
    }

    fn given(notices: &mut [Notice]) -> usize {
        notices.iter_mut().filter_map(|notice| is_given(notice).then_some(())).count()
    }

    /// Regression: all clients of a gateway dialled the next one in the same moment.
    #[tokio::test(start_paused = true)]
    async fn streams_end_one_after_another() {
        let notices = Notices::new();
        let mut open: Vec<Notice> = (0..400).map(|_| notices.notice()).collect();
        assert_eq!(given(&mut open), 0);
        let within = notices.go(open.len());
        assert_eq!(within, Duration::from_secs(2));
        let mut last = 0;
        for quarter in 1..=4 {
            let now = given(&mut open);
            assert!((last..100 * quarter).contains(&now), "{now} in quarter {quarter}");
            last = now;
            tokio::time::advance(within / 4).await;
        }
        assert_eq!(given(&mut open), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_none() {
        let notices = Notices::new();
        let mut open: Vec<Notice> = (0..400).map(|_| notices.notice()).collect();
        notices.go(open.len());
        let mut late = notices.notice();
        assert!(given(&mut open) < 400);
        tokio::time::advance(ALL_MAX).await;
        assert_eq!((given(&mut open), is_given(&mut late)), (400, false));
        notices.end();
        assert!(is_given(&mut late) && is_given(&mut notices.notice()));
        drop(notices);
        assert!(is_given(&mut late));
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_streams_go_faster() {
        assert_eq!(Notices::new().go(usize::MAX), ALL_MAX);
        let notices = Notices::new();
        let mut notice = notices.notice();
        assert_eq!(notices.go(0), Duration::ZERO);
        assert!(is_given(&mut notice));
    }
}
