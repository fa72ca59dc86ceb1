//! One operation of a client, from its receipt to its answer.

use super::Env;
use super::caller::Caller;
use super::directory::Directory;
use super::fanout::FanOut;
use super::part::{Bounds, Part, Place, Want};
use super::translate::{mismatched_answer, to_client, to_shard};
use link::mux::{Answer, Failure, Outcome};
use link::retry::Try;
use wire::internal::v1::operation::Op as RoutedOp;
use wire::internal::v1::operation_result::Result as RoutedAnswer;
use wire::internal::v1::{CancelWait, Operation as RoutedOperation};
use wire::limits::{DEFAULT_TIMEOUT_MS, TIMEOUT_MS_MAX};
use wire::v1::{CancelWaitResponse, Error, Operation};
use wire::{ErrorClass, OperationKind};

/// A step that a driver should take for a call.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // short-lived, in a reused buffer: a box would cost more
pub enum Step {
    /// Send an operation, and pass its outcome to [`Call::on_outcome`].
    Send(Outgoing),
    /// Call [`Call::on_pause_over`] for this part after a pause.
    Pause {
        /// The part that pauses.
        part: u32,
        /// The length of the pause.
        ms: u64,
    },
    /// Fetch the newer map from this node. The call does not wait for it.
    Refresh {
        /// The node with the newer map.
        node: u64,
        /// The version of its map.
        map_version: u64,
    },
    /// The answer of the call. No step follows.
    Answer(Answer),
}

/// An operation on its way to a node.
#[derive(Debug)]
pub struct Outgoing {
    /// The part that the outcome belongs to.
    pub part: u32,
    /// The id of the node to send it to.
    pub node: u64,
    /// How long to wait for the outcome, in addition to an acquire's own wait.
    pub timeout_ms: u64,
    /// The operation. Its id and timeout are set when it is sent.
    pub operation: RoutedOperation,
    /// The kind of the operation, if this is not its first try. For the metrics.
    pub retry_of: Option<OperationKind>,
}

/// One operation of a client, or of a [`Cleanup`](super::Cleanup).
///
/// * A call has exactly one [`Step::Answer`], and no step after that.
/// * Each part has at most one send or pause under way.
/// * After [`abandon`](Call::abandon) nothing is tried again, except a cancel.
#[derive(Debug)]
pub struct Call {
    caller: Caller,
    state: State,
    abandoned: bool,
}

#[derive(Debug)]
enum State {
    /// An operation on one shard.
    One(Box<Part>),
    /// An acquire was refused while one of its tries is in doubt. It is cancelled before its client
    /// is told of the refusal: see [`Call::finish_given_up`].
    Cancelling { refused: Box<Error>, cancel: Box<Part> },
    /// An operation on many shards.
    Many(Box<FanOut>),
    /// The call was answered, or has not begun.
    Over,
}

impl Call {
    /// Begins an operation of a client: checks it, fills in defaults, and pushes its first
    /// steps.
    pub fn begin(
        caller: Caller,
        operation: Operation,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) -> Call {
        let mut call = Call { caller, state: State::Over, abandoned: false };
        if let Err(error) = call.try_begin(operation, directory, env, steps) {
            call.answer(Answer::Error(*error), steps);
        }
        call
    }

    /// Begins an operation of a [`Cleanup`](super::Cleanup), in the name of the client that is gone,
    /// on the shard that owns the operation's name.
    pub fn begin_own(
        caller: Caller,
        op: RoutedOp,
        timeout_ms: u64,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) -> Call {
        let mut call = Call { caller, state: State::Over, abandoned: false };
        if let Err(error) = call.begin_one(op, timeout_ms, directory, env, steps) {
            call.answer(Answer::Error(*error), steps);
        }
        call
    }

    fn try_begin(
        &mut self,
        operation: Operation,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) -> Result<(), Box<Error>> {
        // The total size needs no check: each field has its limit, and all of them together stay
        // below the limit of an operation.
        wire::check_operation(&operation)?;
        let timeout_ms = match operation.timeout_ms {
            0 => DEFAULT_TIMEOUT_MS,
            asked => asked.min(TIMEOUT_MS_MAX),
        };
        let Some(mut op) = operation.op else {
            return Err(Box::new(Error::invalid("the operation is empty")));
        };
        wire::fill_defaults(&mut op, || env.request_id());
        match to_shard(op) {
            Ok(op) => self.begin_one(op, timeout_ms.into(), directory, env, steps),
            // Not an error: the operation concerns more than one shard.
            Err(op) => {
                let many =
                    FanOut::of(*op, timeout_ms.into(), &self.caller, directory, env.now_ms())?;
                self.state = State::Many(Box::new(many));
                self.begin_parts(directory, env, steps);
                Ok(())
            }
        }
    }

    /// Begins an operation on one shard.
    fn begin_one(
        &mut self,
        op: RoutedOp,
        timeout_ms: u64,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) -> Result<(), Box<Error>> {
        let bounds = Bounds { timeout_ms, retry_busy: false };
        let now_ms = env.now_ms();
        let mut part =
            Box::new(Part::new(op, Place::OfName, bounds, &self.caller, directory, now_ms)?);
        let want = part.resume(directory, now_ms);
        self.state = State::One(part);
        self.go_on(0, want, directory, env, steps);
        Ok(())
    }

    fn begin_parts(&mut self, directory: &Directory, env: &mut impl Env, steps: &mut Vec<Step>) {
        let State::Many(many) = &mut self.state else { return };
        let now_ms = env.now_ms();
        let wants: Vec<(u32, Want)> = many
            .parts_mut()
            .map(|(number, part)| (number, part.resume(directory, now_ms)))
            .collect();
        for (number, want) in wants {
            self.go_on(number, want, directory, env, steps);
        }
        self.answer_if_complete(steps);
    }

    /// Tells the call that its client is gone. From here on nothing is tried again, except a cancel.
    /// The outcome of a try under way still counts.
    pub fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Takes the outcome of the operation that was sent for a part.
    pub fn on_outcome(
        &mut self,
        number: u32,
        outcome: Outcome<RoutedAnswer>,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) {
        let Some(part) = self.part_mut(number) else { return };
        if let Err(Failure::StaleRoute { map_version, .. }) = &outcome
            && *map_version > directory.version().0
        {
            steps.push(Step::Refresh { node: part.tried(), map_version: *map_version });
        }
        let want = part.on_outcome(outcome, directory, env);
        self.go_on(number, want, directory, env, steps);
    }

    /// Goes on with a part after its pause is over.
    pub fn on_pause_over(
        &mut self,
        number: u32,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) {
        let Some(part) = self.part_mut(number) else { return };
        let want = part.resume(directory, env.now_ms());
        self.go_on(number, want, directory, env, steps);
    }

    fn part_mut(&mut self, number: u32) -> Option<&mut Part> {
        match &mut self.state {
            State::One(part) | State::Cancelling { cancel: part, .. } => Some(part),
            State::Many(many) => many.part_mut(number),
            State::Over => None,
        }
    }

    /// Acts on the want of a part: pushes its next step, or records its end.
    fn go_on(
        &mut self,
        number: u32,
        want: Want,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) {
        let gives_up = self.abandoned && !matches!(self.state, State::Cancelling { .. });
        let Some(part) = self.part_mut(number) else { return };
        // `tries` already includes the try in `want`, so more than 1 means that it is a retry.
        let tries_again = part.tries() > 1 || matches!(want, Want::Pause { .. });
        match want {
            Want::Send(_) | Want::Pause { .. } if gives_up && tries_again => {
                let error = Error::outcome_unknown("given up: the client that asked is gone");
                self.part_ended(number, Err(Box::new(error)), directory, env, steps);
            }
            Want::Send(next) => steps.push(Step::Send(outgoing(number, part, &next))),
            Want::Pause { ms } => steps.push(Step::Pause { part: number, ms }),
            Want::Answered(answer) => self.part_ended(number, Ok(answer), directory, env, steps),
            Want::GivenUp(error) => self.part_ended(number, Err(error), directory, env, steps),
        }
    }

    /// Records that a part has finished, and answers the call if it was the last. `ended` is the
    /// part's answer, or the error with which it gave up.
    fn part_ended(
        &mut self,
        number: u32,
        ended: Result<RoutedAnswer, Box<Error>>,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) {
        match std::mem::replace(&mut self.state, State::Over) {
            State::One(part) => match ended {
                Ok(answer) => self.answer(to_client(answer), steps),
                Err(error) => self.finish_given_up(&part, error, directory, env, steps),
            },
            State::Cancelling { refused, .. } => {
                self.answer(answer_after_cancel(ended, *refused), steps)
            }
            State::Many(mut many) => {
                many.ended(number, ended);
                self.state = State::Many(many);
                self.answer_if_complete(steps);
            }
            State::Over => {}
        }
    }

    /// Ends an operation on one shard that has given up, if need be after a cancel.
    ///
    /// An acquire that was refused while one of its tries is in doubt is cancelled before its
    /// client gets the answer. Otherwise the late try could still reach its node and be granted,
    /// after the client was told that another holds the lock.
    ///
    /// The cancel cannot come after the answer. By then the client may have come back through
    /// another gateway with the same request id, and the cancel would end that new wait. If it
    /// found a grant, nothing could tell whether the client uses it or it must be released.
    fn finish_given_up(
        &mut self,
        part: &Part,
        error: Box<Error>,
        directory: &Directory,
        env: &mut impl Env,
        steps: &mut Vec<Step>,
    ) {
        // These errors tell the client to retry with the same request id, so nothing has to be
        // cancelled.
        let client_will_retry = matches!(error.class(), ErrorClass::Unknown | ErrorClass::Retry);
        let acquire = match part.op() {
            Some(RoutedOp::Acquire(acquire)) if part.in_doubt() && !client_will_retry => acquire,
            _ => return self.answer(Answer::Error(*error), steps),
        };
        let (name, request_id) = (acquire.name.clone(), acquire.request_id.clone());
        // `abandoned: true` would only take the acquire out of the queue and let a later copy in.
        // `false` also buries the request, which is the point here.
        let cancel = RoutedOp::CancelWait(CancelWait { name, request_id, abandoned: false });
        let now_ms = env.now_ms();
        let bounds = Bounds { timeout_ms: part.left_ms(now_ms), retry_busy: false };
        match Part::new(cancel, Place::OfName, bounds, &self.caller, directory, now_ms) {
            Ok(mut cancel) => {
                let want = cancel.resume(directory, now_ms);
                self.state = State::Cancelling { refused: error, cancel: Box::new(cancel) };
                self.go_on(0, want, directory, env, steps);
            }
            Err(why) => self.answer(answer_after_cancel(Err(why), *error), steps),
        }
    }

    fn answer_if_complete(&mut self, steps: &mut Vec<Step>) {
        if let State::Many(many) = &mut self.state
            && let Some(answer) = many.answer()
        {
            let answer = answer.unwrap_or_else(|error| Answer::Error(*error));
            self.answer(answer, steps);
        }
    }

    fn answer(&mut self, answer: Answer, steps: &mut Vec<Step>) {
        self.state = State::Over;
        steps.push(Step::Answer(answer));
    }
}

fn outgoing(number: u32, part: &mut Part, next: &Try) -> Outgoing {
    Outgoing {
        part: number,
        node: next.target,
        timeout_ms: next.timeout_ms,
        operation: part.outgoing(next),
        retry_of: (part.tries() > 1).then(|| part.kind()),
    }
}

/// The answer to an acquire that was refused, once the cancel of its tries in doubt has ended.
fn answer_after_cancel(ended: Result<RoutedAnswer, Box<Error>>, refused: Error) -> Answer {
    let why = match ended {
        Ok(RoutedAnswer::CancelWait(CancelWaitResponse { grant: Some(grant), .. })) => {
            return Answer::granted(grant);
        }
        Ok(RoutedAnswer::CancelWait(_)) => return Answer::Error(refused),
        Ok(_) => mismatched_answer().message,
        Err(why) => why.message,
    };
    Answer::Error(Error::outcome_unknown(format!(
        "the last try was refused ({}), but an earlier one got no answer and could not be cancelled \
         ({why}). The lock may still be granted: try again with the same request id",
        refused.message
    )))
}
