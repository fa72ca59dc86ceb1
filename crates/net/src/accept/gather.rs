//! When a connection of HTTP/2 puts off a small write, so that more answers leave with it.
//!
//! Each call of HTTP/2 is a task, and the first task that has an answer wakes the task of the
//! connection, which the runtime then runs next. It would write one answer at a time, although the
//! tasks of other answers are ready to run. So a small write yields once to these tasks, and their
//! answers leave with it in one system call.
//!
//! A client that has one call at a time gains nothing by that. So a connection stops for a while
//! after several yields in vain.

/// A write that is at least this long goes at once.
const BYTES_MAX: usize = 2_048;
/// After so many yields in vain, one after the other, the connection stops yielding.
const IN_VAIN_MAX: u8 = 8;
/// It begins again after so many writes more.
const WRITES_WITHOUT: u8 = 64;

/// The state of one connection.
///
/// - Between two flushes at most one write is put off.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    write: Write,
    /// The yields in vain, one after the other, and the writes since they became too many.
    in_vain: u8,
}

/// The state of what is written until the next flush.
#[derive(Clone, Copy, Debug, Default)]
enum Write {
    /// Nothing was written.
    #[default]
    Open,
    /// A write of so many bytes was put off.
    PutOff(usize),
    /// All writes go at once.
    Going,
}

impl Gathering {
    /// Whether a write of so many bytes is put off. The caller then has its task woken behind the
    /// tasks that are ready.
    pub(super) fn puts_off(&mut self, bytes: usize) -> bool {
        match self.write {
            Write::Open if bytes >= BYTES_MAX => self.write = Write::Going,
            Write::Open if self.in_vain >= IN_VAIN_MAX => {
                self.in_vain += 1;
                if self.in_vain == IN_VAIN_MAX + WRITES_WITHOUT {
                    self.in_vain = 0;
                }
                self.write = Write::Going;
            }
            Write::Open => {
                self.write = Write::PutOff(bytes);
                return true;
            }
            Write::PutOff(before) => {
                self.in_vain = if bytes > before { 0 } else { self.in_vain + 1 };
                self.write = Write::Going;
            }
            Write::Going => {}
        }
        false
    }

    /// All is written.
    pub(super) fn flushed(&mut self) {
        self.write = Write::Open;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes so many bytes, to which others add so many if the write is put off. Whether it was.
    fn write(gathering: &mut Gathering, bytes: usize, added: usize) -> bool {
        let is_put_off = gathering.puts_off(bytes);
        if is_put_off {
            assert!(!gathering.puts_off(bytes + added), "once");
        }
        assert!(!gathering.puts_off(1), "the rest goes with it");
        gathering.flushed();
        is_put_off
    }

    #[test]
    fn small_writes_are_put_off_while_others_add_to_them() {
        let mut gathering = Gathering::default();
        for _ in 0..200 {
            assert!(write(&mut gathering, 100, 100));
            assert!(!write(&mut gathering, BYTES_MAX, 0));
            for _ in 1..IN_VAIN_MAX {
                assert!(write(&mut gathering, 100, 0));
            }
        }
    }

    #[test]
    fn a_connection_with_one_call_at_a_time_seldom_puts_off() {
        let mut gathering = Gathering::default();
        let writes = 10 * u32::from(IN_VAIN_MAX + WRITES_WITHOUT);
        let put_off = (0..writes).filter(|_| write(&mut gathering, 100, 0)).count();
        assert_eq!(put_off, 10 * usize::from(IN_VAIN_MAX));
    }
}
