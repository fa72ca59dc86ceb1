//! Asks for a workload, step by step, in the order of LOCKS.
//!
//! It is generic over its input and output. An impossible answer is explained and asked for again.

use crate::{PlanError, Workload};
use std::io::{BufRead, Write};

/// The reason why the questions gave no workload.
#[derive(Debug, thiserror::Error)]
pub enum InteractiveError {
    /// The input ended before the last question.
    #[error(
        "the input ended before the question on `{0}` was answered: answer it, or use a workload \
         file"
    )]
    Ended(&'static str),
    /// The questions cannot be written or the answers cannot be read.
    #[error("cannot ask: {0}")]
    Io(#[from] std::io::Error),
    /// All answers are possible, but not together.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

struct Question {
    key: &'static str,
    ask: &'static str,
    /// Meaning of an empty answer.
    default: &'static str,
}

const fn q(key: &'static str, ask: &'static str, default: &'static str) -> Question {
    Question { key, ask, default }
}

/// One of the five steps.
struct Step {
    title: &'static str,
    questions: &'static [Question],
}

/// The second step asks for the rate, with the first of these questions that gets an answer.
const RATE: &[Question] = &[
    q(
        "locks_per_instance_per_min",
        "Locks that each instance takes per minute",
        "other ways to say it",
    ),
    q("acquire_per_s", "Locks taken per second by all of them", "events per day instead"),
    q(
        "events_per_day",
        "Events per day that take one lock each",
        "10 locks per instance per minute",
    ),
];

const STEPS: &[Step] = &[
    Step {
        title: "1. Latency",
        questions: &[
            q("target_p99", "Wanted p99 of an acquire", "10ms"),
            q(
                "network_rtt",
                "Round trip between replicas, such as 50ms across regions",
                "one data centre",
            ),
        ],
    },
    Step {
        title: "2. Operations",
        questions: &[
            q("instances", "Processes that take locks", "2000"),
            q("hold", "How long a lock is held", "5m"),
            q("ttl", "TTL: how long a lock outlives a holder that vanished", "30s"),
            q("heartbeat", "Time between renewals", "half the TTL"),
            q("peak_multiplier", "Peak rate over average rate", "3"),
            q("reads_per_write", "Checks per write", "3"),
        ],
    },
    Step {
        title: "3. Cluster",
        questions: &[
            q("replicas", "Copies of each shard", "by size: 3 or 5"),
            q("leader_capacity", "Writes/s that one leader carries", "10000"),
            q("headroom", "Share of it to keep free, such as 20%", "0"),
            q("failure_zones", "Zones that nodes are spread over", "none"),
        ],
    },
    Step {
        title: "4. Key metrics",
        questions: &[
            q("resources", "Distinct names that are locked", "not known"),
            q("growth.per_month", "Growth of the load per month", "10%"),
        ],
    },
    Step {
        title: "5. Storage",
        questions: &[
            q("entry.name_bytes", "Bytes of a resource name", "100"),
            q("entry.owner_bytes", "Bytes of an owner id", "50"),
            q("entry.metadata_bytes", "Bytes of metadata", "50"),
            q("history_days", "Days that history is kept", "30"),
        ],
    },
];

/// Asks the five steps in order and returns the workload. An empty answer takes the default. Keys
/// in `given` (values by key, as flags give them) are not asked for.
///
/// # Errors
/// If the input ends early or cannot be read, or if `given` is impossible.
pub fn ask(
    input: &mut impl BufRead,
    output: &mut impl Write,
    given: &[(String, String)],
) -> Result<Workload, InteractiveError> {
    let mut answers = given.to_vec();
    possible_so_far(&answers)?;
    writeln!(output, "Five steps. Press Enter for the value in [brackets].")?;
    for step in STEPS {
        writeln!(output, "\n{}", step.title)?;
        for question in step.questions {
            if !has(&answers, question.key) {
                ask_one(input, output, question, &mut answers)?;
            }
            if question.key == "instances" && !RATE.iter().any(|rate| has(&answers, rate.key)) {
                ask_rate(input, output, &mut answers)?;
            }
        }
    }
    writeln!(output)?;
    Ok(Workload::parse("", &answers)?)
}

fn ask_rate(
    input: &mut impl BufRead,
    output: &mut impl Write,
    answers: &mut Vec<(String, String)>,
) -> Result<(), InteractiveError> {
    for question in RATE {
        if ask_one(input, output, question, answers)? {
            return Ok(());
        }
    }
    answers.push(("locks_per_instance_per_min".into(), "10".into()));
    if !has(answers, "instances") {
        answers.push(("instances".into(), "2000".into()));
    }
    Ok(())
}

/// Asks one question. Returns whether it was answered.
fn ask_one(
    input: &mut impl BufRead,
    output: &mut impl Write,
    question: &Question,
    answers: &mut Vec<(String, String)>,
) -> Result<bool, InteractiveError> {
    loop {
        write!(output, "  {} [{}]: ", question.ask, question.default)?;
        output.flush()?;
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            writeln!(output)?;
            return Err(InteractiveError::Ended(question.key));
        }
        let answer = line.trim();
        if answer.is_empty() {
            return Ok(false);
        }
        answers.push((question.key.to_owned(), answer.to_owned()));
        // A rate per instance needs the number of instances. Its default is 2,000.
        if question.key == "locks_per_instance_per_min" && !has(answers, "instances") {
            answers.push(("instances".into(), "2000".into()));
        }
        match possible_so_far(answers) {
            Ok(()) => return Ok(true),
            Err(error) => {
                answers.retain(|(key, _)| key != question.key);
                writeln!(output, "    {error}")?;
            }
        }
    }
}

/// Checks that the answers make a workload, with any rate if none was given yet.
fn possible_so_far(answers: &[(String, String)]) -> Result<(), PlanError> {
    match Workload::parse("", answers) {
        Err(PlanError::NoRate) => Workload::parse("acquire_per_s: 1", answers).map(|_| ()),
        checked => checked.map(|_| ()),
    }
}

fn has(answers: &[(String, String)], key: &str) -> bool {
    answers.iter().any(|(given, _)| given == key)
}
