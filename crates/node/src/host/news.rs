//! The news that a shard thread tells about the table of a watched replica.
//!
//! * A shard thread never waits for its reader. Events that find no room are dropped, and the
//!   reader is told that it has lost some.
//! * Events of entries come before answers that were read from the table after them.

use locks::Event;
use shard::{Reply, Watched};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

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
}

/// The sending end, which a shard thread has.
#[derive(Clone, Debug)]
pub(crate) struct NewsPort {
    sender: UnboundedSender<(usize, News)>,
    waiting_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct NewsReader {
    receiver: UnboundedReceiver<(usize, News)>,
    waiting_bytes: Arc<AtomicUsize>,
}

/// The two ends of a channel for the news of one shard. Once `bytes_max` bytes of events wait for
/// the reader, about, more are dropped.
pub(crate) fn news(bytes_max: usize) -> (NewsPort, NewsReader) {
    let (sender, receiver) = unbounded_channel(); // bounded by `bytes_max`, and by the reads asked for
    let waiting_bytes = Arc::new(AtomicUsize::new(0));
    let port = NewsPort { sender, waiting_bytes: waiting_bytes.clone(), bytes_max };
    (port, NewsReader { receiver, waiting_bytes })
}

impl NewsPort {
    pub(crate) fn send(&self, mut news: News) {
        let mut bytes = news.bytes();
        if self.waiting_bytes.load(Ordering::Relaxed) + bytes > self.bytes_max
            && let Some(watched) = &mut news.watched
            && !watched.entries.is_empty()
        {
            watched.entries.clear();
            watched.begins_after = Some(watched.applied_index);
            bytes = NEWS_BYTES;
        }
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        // A reader that has ended needs no news.
        let _ = self.sender.send((bytes, news));
    }
}

impl NewsReader {
    /// The next news. `None` once the replica has ended.
    pub(crate) async fn next(&mut self) -> Option<News> {
        let (bytes, news) = self.receiver.recv().await?;
        self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        Some(news)
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

    #[tokio::test]
    async fn a_reader_that_falls_behind_is_told_that_it_has_lost_events() {
        let (port, mut reader) = news(BYTES);
        port.send(watched(1, BYTES / 2));
        port.send(watched(2, BYTES / 2));
        let first = reader.next().await.and_then(|news| news.watched).unwrap();
        assert_eq!((first.begins_after, first.entries.len()), (None, 1));
        let second = reader.next().await.and_then(|news| news.watched).unwrap();
        assert_eq!((second.begins_after, second.entries.len()), (Some(2), 0));
        port.send(watched(3, BYTES / 2));
        let third = reader.next().await.and_then(|news| news.watched).unwrap();
        assert_eq!((third.begins_after, third.entries.len()), (None, 1));
        drop(port);
        assert!(reader.next().await.is_none());
    }
}
