//! A replica as a shard thread sees it.

use shard::{Fatal, Input, Now, Outputs, Replica, Reply, Status, Ticket};

/// The interface of a replica that a shard thread needs.
pub(crate) trait Stepper: Send {
    /// Takes all of `inputs`, in order.
    fn step(&mut self, now: Now, inputs: &mut Vec<Input>) -> Result<Outputs, Fatal>;
    fn status(&self) -> Status;
    /// Ends the replica. Returns the replies to all operations that wait for it.
    fn retire(self: Box<Self>) -> Vec<(Ticket, Reply)>;
}

impl Stepper for Replica {
    fn step(&mut self, now: Now, inputs: &mut Vec<Input>) -> Result<Outputs, Fatal> {
        Replica::step(self, now, inputs.drain(..))
    }

    fn status(&self) -> Status {
        Replica::status(self)
    }

    fn retire(self: Box<Self>) -> Vec<(Ticket, Reply)> {
        Replica::retire(*self)
    }
}
