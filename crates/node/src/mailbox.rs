//! A queue with one reader, which empties it in one go and sleeps on it.
//!
//! The channels of std and crossbeam spin before they sleep, and hand out one message at a time. On
//! a busy machine, a tenth of all processor time went into that spinning. This queue takes the lock
//! once per batch. It is unbounded, so its senders must bound it (see [`host`](crate::host) and
//! [`writer`](crate::writer)).

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    messages: Vec<T>,
    senders: usize,
    receiver_lives: bool,
    receiver_sleeps: bool,
}

/// The sending end. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The receiving end of a mailbox.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// The result of waiting for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// At least one message came.
    Some,
    /// No message came in time.
    Nothing,
    /// There is no message, and no sender is left.
    Closed,
}

/// An empty mailbox.
pub(crate) fn mailbox<T>() -> (Sender<T>, Receiver<T>) {
    let state =
        State { messages: Vec::new(), senders: 1, receiver_lives: true, receiver_sleeps: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Adds a message; false if no receiver will read it.
    pub(crate) fn send(&self, message: T) -> bool {
        let mut state = self.0.lock();
        if !state.receiver_lives {
            return false;
        }
        state.messages.push(message);
        if std::mem::take(&mut state.receiver_sleeps) {
            drop(state);
            self.0.filled.notify_one();
        }
        true
    }
}

impl<T> Receiver<T> {
    /// A sender for a thread that answers the receiver's own questions.
    pub(crate) fn sender(&self) -> Sender<T> {
        self.0.lock().senders += 1;
        Sender(self.0.clone())
    }

    /// Appends all messages to `into`. Waits for the first message until `timeout` has passed, or
    /// for ever without a timeout.
    pub(crate) fn take_all(&self, into: &mut Vec<T>, timeout: Option<Duration>) -> Received {
        let until = timeout.map(|timeout| Instant::now() + timeout);
        let mut state = self.0.lock();
        loop {
            if !state.messages.is_empty() {
                if into.is_empty() {
                    std::mem::swap(&mut state.messages, into); // the old capacity goes back
                } else {
                    into.append(&mut state.messages);
                }
                return Received::Some;
            }
            if state.senders == 0 {
                return Received::Closed;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Received::Nothing;
            }
            state.receiver_sleeps = true;
            state = match left {
                Some(left) => {
                    self.0
                        .filled
                        .wait_timeout(state, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
                None => self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.receiver_sleeps = false;
            // Other threads that are ready to run may be about to send, too. On busy cores the
            // yield turns several rounds into one.
            drop(state);
            std::thread::yield_now();
            state = self.0.lock();
        }
    }
}

impl<T> Shared<T> {
    /// Locks the state, poisoned or not, because no code that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            drop(state);
            self.0.filled.notify_one();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = {
            let mut state = self.0.lock();
            state.receiver_lives = false;
            std::mem::take(&mut state.messages)
        };
        drop(left); // outside the lock: a message may hold a sender
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_there_comes_in_order_and_in_one_go() {
        let (sender, receiver) = mailbox();
        (0..5).for_each(|n| assert!(sender.send(n)));
        let mut got = vec![];
        assert_eq!(receiver.take_all(&mut got, None), Received::Some);
        assert_eq!(got, [0, 1, 2, 3, 4]);
        assert_eq!(receiver.take_all(&mut got, Some(Duration::ZERO)), Received::Nothing);
        assert_eq!(got.len(), 5, "what the caller had stays");
    }

    #[test]
    fn a_sleeper_is_woken_by_each_of_many_senders() {
        let (sender, receiver) = mailbox();
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    (0..10_000).for_each(|n| assert!(sender.send((thread, n))))
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        let mut got = vec![];
        while receiver.take_all(&mut got, None) == Received::Some {
            for (thread, n) in got.drain(..) {
                assert_eq!(n, next[thread as usize], "each sender's messages keep their order");
                next[thread as usize] += 1;
            }
        }
        assert_eq!(next, [10_000; 4]);
        threads.into_iter().for_each(|thread| thread.join().expect("a sender"));
    }

    #[test]
    fn either_end_notices_that_the_other_is_gone() {
        let (sender, receiver) = mailbox::<()>();
        drop(sender);
        assert_eq!(receiver.take_all(&mut vec![], None), Received::Closed);
        let (sender, receiver) = mailbox();
        drop(receiver);
        assert!(!sender.send(()));
    }
}
