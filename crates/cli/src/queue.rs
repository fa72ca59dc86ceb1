//! The progress of a wait: its place in the queue, and the holder of the lock.
//!
//! * It is one line on standard error, written anew at most once a second, and only for a terminal.
//!   In a long queue it is written less often, because each line costs a read of the queue.
//! * A caller that may not read the name waits without it. Any other failure leaves the line out
//!   for a second.

use crate::duration::show_ms;
use crate::output::wall_ms;
use crate::shown::shown;
use client::{Checked, Client, Consistency, ErrorCode};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::Duration;
use wire::limits::ROWS_MAX;

/// Time between two lines, and before the first one.
const EVERY: Duration = Duration::from_secs(1);
/// Longest time between two lines.
const EVERY_MAX: Duration = Duration::from_secs(10);
/// Waiters for which the time between two lines is longer by [`EVERY`].
const EVERY_WAITERS: u32 = 50;
/// Starts the line of a terminal anew.
const ANEW: &str = "\r\x1b[K";

/// Shows the progress of an acquire until `wait` has ended. `say` writes to standard error.
pub async fn shown_while<T>(
    client: &Client,
    name: &str,
    owner: &str,
    say: impl Fn(String),
    wait: impl Future<Output = T>,
) -> T {
    if !std::io::stderr().is_terminal() {
        return wait.await;
    }
    let told = Told { any: Cell::new(false), say: &say };
    let show = async {
        let mut every = EVERY;
        loop {
            tokio::time::sleep(every).await;
            match client.check_queue(name, Consistency::Stale, 1, ROWS_MAX).await {
                Ok(checked) => {
                    every = pause(checked.waiters);
                    told.any.set(true);
                    say(format!("{ANEW}{}", line(&checked, owner, wall_ms())));
                }
                Err(error) if error.code == ErrorCode::PermissionDenied => break,
                Err(_) => {}
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        ended = wait => ended,
        () = show => unreachable!("it never ends"),
    }
}

/// Clears the line when the wait has ended, or is given up.
struct Told<'a, S: Fn(String)> {
    /// Whether there is a line.
    any: Cell<bool>,
    say: &'a S,
}

impl<S: Fn(String)> Drop for Told<'_, S> {
    fn drop(&mut self) {
        if self.any.get() {
            (self.say)(ANEW.to_owned());
        }
    }
}

/// The time until the next line.
fn pause(waiters: u32) -> Duration {
    (EVERY * (1 + waiters / EVERY_WAITERS)).min(EVERY_MAX)
}

/// The line about a queue: `3rd of 5; held by ann for 12.0s`.
fn line(checked: &Checked, owner: &str, now_ms: u64) -> String {
    // A waiter is known by its owner alone, because its request id is shown to no client.
    let mut ours = checked.queue.iter().filter(|waiter| waiter.owner_id == owner);
    let place = match (ours.next(), ours.next()) {
        (Some(only), None) => format!("{} of {}", ordinal(only.place), checked.waiters),
        _ => format!("{} waiting", checked.waiters),
    };
    let held = match checked.holders.first() {
        None => "not held".to_owned(),
        Some(holder) => {
            let by = match (&*holder.owner_id, &*holder.principal) {
                ("", "") => format!("token {}", holder.fencing_token),
                ("", principal) => shown(principal),
                (owner, _) => shown(owner),
            };
            let others = match checked.holder_count.saturating_sub(1) {
                0 => String::new(),
                1 => " and 1 other".to_owned(),
                others => format!(" and {others} others"),
            };
            let held_ms = now_ms.saturating_sub(holder.acquired_at_ms);
            format!("held by {by}{others} for {}", show_ms(held_ms))
        }
    };
    format!("{place}; {held}")
}

/// `1st`, `2nd`, `3rd`, `4th`, …, `11th`, …
fn ordinal(number: u32) -> String {
    let suffix = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Grant;
    use wire::v1::Waiter;

    #[test]
    fn numbers_of_places() {
        let numbers = [1, 2, 3, 4, 11, 12, 13, 21, 101, 111];
        let told = ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "101st", "111th"];
        assert_eq!(numbers.map(ordinal), told);
    }

    #[test]
    fn a_long_queue_is_read_less_often() {
        let pauses = [0, 49, 50, 100, 449, 450, u32::MAX].map(|waiters| pause(waiters).as_secs());
        assert_eq!(pauses, [1, 1, 2, 3, 9, 10, 10]);
    }

    #[test]
    fn the_line_is_cleared_when_the_wait_is_given_up() {
        let said = std::cell::RefCell::new(Vec::new());
        let say = |text: String| said.borrow_mut().push(text);
        let told = |any| drop(Told { any: Cell::new(any), say: &say });
        told(false);
        assert!(said.borrow().is_empty());
        told(true);
        assert_eq!(*said.borrow(), [ANEW]);
    }

    #[test]
    fn a_line_tells_the_place_and_the_holder() {
        let waiter =
            |owner: &str, place| Waiter { owner_id: owner.into(), place, ..Waiter::default() };
        let holder = Grant { owner_id: "ann\x1b[2J".into(), ..Grant::default() };
        let mut checked = Checked {
            holders: vec![holder],
            holder_count: 1,
            waiters: 5,
            queue: vec![waiter("bob", 1), waiter("me", 2), waiter("bob", 3)],
            ..Checked::default()
        };
        let held = "held by ann\\u{1b}[2J for 12.0s";
        assert_eq!(line(&checked, "me", 12_000), format!("2nd of 5; {held}"));
        assert_eq!(line(&checked, "bob", 12_000), format!("5 waiting; {held}"), "which of them");
        (checked.holders[0].owner_id, checked.holder_count) = (String::new(), 3);
        assert_eq!(line(&checked, "me", 0), "2nd of 5; held by token 0 and 2 others for 0ms");
        checked.holders.clear();
        assert_eq!(line(&checked, "me", 0), "2nd of 5; not held");
    }
}
