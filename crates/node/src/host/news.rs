//! The news that a shard thread tells about the table of a watched replica.
//!
//! * A shard thread never waits for its reader. Events that find no room are dropped, and the
//!   reader is told that it has lost some. It then tells its watchers a new picture.
//! * Events of entries come before answers that were read from the table after them.
//! * A reader that stands still costs a bounded number of bytes. Above the bound one item tells of
//!   all losses. Only an item with answers gets a place of its own, and there are no more of these
//!   than reads that the reader has asked for.

use locks::Event;
use shard::{Reply, Watched};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The cost of any news, in bytes.
const NEWS_BYTES: usize = 256;

/// The news about one replica.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The changes of its table.
    pub(crate) watched: Option<Watched>,
    /// Answers to reads that the reader has asked for, after the changes.
    pub(crate) answers: Vec<(u32, Reply)>,
    /// Whether it knows a leader, if that was not said before.
    pub(crate) has_leader: Option<bool>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.watched.is_none() && self.answers.is_empty() && self.has_leader.is_none()
    }

    fn bytes(&self) -> usize {
        let entries = self.watched.iter().flat_map(|watched| &watched.entries);
        NEWS_BYTES + entries.flat_map(|entry| &entry.events).map(Event::bytes).sum::<usize>()
    }

    /// Drops its events. The reader is told that they are lost.
    fn lose_events(&mut self) {
        if let Some(watched) = self.watched.as_mut().filter(|watched| !watched.entries.is_empty()) {
            watched.entries.clear();
            watched.begins_after = Some(watched.applied_index);
        }
    }

    /// Takes in later news without events. An item with answers takes none: its answers were read
    /// before the later changes, so that they would hide a loss between the two.
    fn merge(&mut self, later: News) -> Result<(), News> {
        if !self.answers.is_empty() {
            return Err(later);
        }
        let News { watched, answers, has_leader } = later;
        self.watched = match (self.watched.take(), watched) {
            (Some(mut former), Some(Watched { begins_after, applied_index, .. })) => {
                if begins_after.is_some() {
                    former.entries = Vec::new(); // what begins anew needs nothing of before
                    former.begins_after = begins_after;
                }
                former.applied_index = applied_index;
                Some(former)
            }
            (former, later) => later.or(former),
        };
        self.answers = answers;
        self.has_leader = has_leader.or(self.has_leader);
        Ok(())
    }
}

/// The news that wait for the reader.
///
/// * `bytes` is the sum of the sizes in `items`.
#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<(usize, News)>,
    bytes: usize,
    /// All ports are gone.
    is_over: bool,
}

#[derive(Debug, Default)]
struct Channel {
    waiting: Mutex<Waiting>,
    /// Signals news, or the end.
    ready: Notify,
}

impl Channel {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped with the last port.
#[derive(Debug)]
struct Ports(Arc<Channel>);

impl Drop for Ports {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.ready.notify_one();
    }
}

/// The sending end, which a shard thread has.
#[derive(Clone, Debug)]
pub(crate) struct NewsPort {
    ports: Arc<Ports>,
    bytes_max: usize,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct NewsReader(Arc<Channel>);

/// The two ends of a channel for the news of one shard. Once `bytes_max` bytes of events wait for
/// the reader, about, more are dropped.
pub(crate) fn news(bytes_max: usize) -> (NewsPort, NewsReader) {
    let channel = Arc::<Channel>::default();
    let ports = Arc::new(Ports(channel.clone()));
    (NewsPort { ports, bytes_max }, NewsReader(channel))
}

impl NewsPort {
    pub(crate) fn send(&self, mut news: News) {
        let channel = &self.ports.0;
        let mut bytes = news.bytes();
        {
            let mut waiting = channel.lock();
            if waiting.bytes + bytes > self.bytes_max {
                news.lose_events();
                bytes = NEWS_BYTES;
                if let Some((size, last)) = waiting.items.back_mut() {
                    match last.merge(news) {
                        Ok(()) => {
                            let (former, size_now) = (*size, last.bytes());
                            *size = size_now;
                            waiting.bytes = waiting.bytes - former + size_now;
                            return;
                        }
                        Err(unmerged) => news = unmerged,
                    }
                }
            }
            waiting.bytes += bytes;
            waiting.items.push_back((bytes, news));
        }
        channel.ready.notify_one();
    }
}

impl NewsReader {
    /// The next news. `None` once the replica has ended. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Option<News> {
        loop {
            {
                let mut waiting = self.0.lock();
                if let Some((bytes, news)) = waiting.items.pop_front() {
                    waiting.bytes -= bytes;
                    return Some(news);
                }
                if waiting.is_over {
                    return None;
                }
            }
            self.0.ready.notified().await;
        }
    }
}

impl Drop for NewsReader {
    fn drop(&mut self) {
        // A reader that has ended needs no news. The replica keeps its port for a moment.
        *self.0.lock() = Waiting::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use locks::{Mode, Waiter};
    use shard::EntryEvents;

    const BYTES: usize = 1 << 20;

    fn watched(index: u64, metadata: usize) -> News {
        let waiter = Waiter {
            name: "a".into(),
            owner: "ann".into(),
            principal: String::new(),
            number: index,
            place: 1,
            mode: Mode::Exclusive,
            session: String::new(),
            metadata: "x".repeat(metadata),
            queued_wall_ms: 0,
        };
        let events = vec![Event::Queued(Box::new(waiter))];
        let entries = vec![EntryEvents { index, wall_ms: 0, events }];
        let watched = Watched { begins_after: None, entries, applied_index: index };
        News { watched: Some(watched), ..News::default() }
    }

    fn answered(reading: u32) -> News {
        News { answers: vec![(reading, Reply::Busy)], ..News::default() }
    }

    /// The loss, the entries and the answers of the next news.
    async fn next(reader: &mut NewsReader) -> (Option<u64>, Vec<u64>, Vec<u32>) {
        let News { watched, answers, .. } = reader.next().await.expect("news");
        let (begins_after, entries) = match watched {
            Some(watched) => (watched.begins_after, watched.entries),
            None => (None, Vec::new()),
        };
        let indices = entries.iter().map(|entry| entry.index).collect();
        (begins_after, indices, answers.iter().map(|(reading, _)| *reading).collect())
    }

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_that_it_has_lost_events() {
        let (port, mut reader) = news(BYTES);
        port.send(watched(1, BYTES / 2));
        port.send(answered(7));
        port.send(watched(2, BYTES / 2));
        assert_eq!(next(&mut reader).await, (None, vec![1], vec![]));
        assert_eq!(next(&mut reader).await, (None, vec![], vec![7]));
        assert_eq!(next(&mut reader).await, (Some(2), vec![], vec![]));
        port.send(watched(3, BYTES / 2));
        assert_eq!(next(&mut reader).await, (None, vec![3], vec![]));
        drop(port);
        assert!(reader.next().await.is_none());
    }

    /// Regression: above the bound each further step of the replica left an item of its own, so a
    /// reader that stood still filled the memory.
    #[tokio::test]
    async fn a_reader_that_stands_still_costs_a_bounded_number_of_bytes() {
        let (port, mut reader) = news(BYTES);
        for index in 1..=100_000 {
            port.send(watched(index, 64));
        }
        port.send(News { has_leader: Some(false), ..News::default() });
        let bytes = reader.0.lock().bytes;
        assert!(bytes <= BYTES + NEWS_BYTES, "{bytes}");
        // Nothing is lost in silence: after each loss the news say where the events begin anew.
        let (mut told, mut losses, mut has_leader) = (0, 0, None);
        while !reader.0.lock().items.is_empty() {
            let News { watched, has_leader: is_led, .. } = reader.next().await.unwrap();
            has_leader = is_led.or(has_leader);
            let Some(Watched { begins_after, entries, .. }) = watched else { continue };
            if let Some(after) = begins_after {
                (told, losses) = (after, losses + 1);
            }
            for entry in entries {
                assert_eq!(entry.index, told + 1);
                told = entry.index;
            }
        }
        assert_eq!((told, has_leader), (100_000, Some(false)));
        assert!(losses > 0);
    }

    /// An answer is a picture of the table at its time. If a loss after it were told before it, the
    /// picture would lack the lost events and nothing would tell so.
    #[tokio::test]
    async fn a_loss_after_an_answer_is_told_after_it() {
        let (port, mut reader) = news(1);
        port.send(watched(1, 64));
        port.send(watched(2, 64));
        port.send(answered(7));
        port.send(watched(3, 64));
        port.send(watched(4, 64));
        assert_eq!(next(&mut reader).await, (Some(2), vec![], vec![7]));
        assert_eq!(next(&mut reader).await, (Some(4), vec![], vec![]));
        assert!(reader.0.lock().items.is_empty() && reader.0.lock().bytes == 0);
    }
}
