//! The pipe from the front to the guard: one byte for each signal that the front has received.
//!
//! The pipe ends when the front ends, however the front ends.

use crate::lock::signals;
use std::fs::File;
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Set in the byte of a signal that the job has already received.
const DELIVERED: u8 = 0x80;

/// A signal that the front has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub number: i32,
    /// Whether the job has already received the signal.
    pub delivered: bool,
}

impl Event {
    pub fn to_byte(self) -> u8 {
        self.number as u8 | if self.delivered { DELIVERED } else { 0 }
    }

    fn from_byte(byte: u8) -> Event {
        Event { number: i32::from(byte & !DELIVERED), delivered: byte & DELIVERED != 0 }
    }
}

/// The guard's end of the pipe.
pub struct Control(pipe::Receiver);

impl Control {
    pub fn open(descriptor: i32) -> io::Result<Control> {
        // Opened anew, the descriptor is closed on exec. The inherited one would stay open in the
        // job.
        let file = File::open(format!("/proc/self/fd/{descriptor}"))?;
        nix::unistd::close(descriptor)?;
        pipe::Receiver::from_file(file).map(Control)
    }

    /// Reads the next signal; `None` means that the front is gone. A dropped future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.0.read_u8().await.ok().map(Event::from_byte)
    }

    /// Waits for a signal that would end a process without handlers; `None` means that the front is
    /// gone.
    pub async fn told_to_end(&mut self) -> Option<i32> {
        loop {
            let number = self.next().await?.number;
            if signals::ends(number) {
                return Some(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_byte() {
        for number in [1, 15, 64] {
            for delivered in [false, true] {
                let event = Event { number, delivered };
                assert_eq!(Event::from_byte(event.to_byte()), event);
            }
        }
    }
}
