//! A failure as people and programs read it: one line for the event, one line for the next step,
//! and an exit code.

use crate::output::print_json;
use std::io::Write;
use std::process::ExitCode;
use wire::json;
use wire::v1::ErrorCode;

/// The exit codes of every verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Any failure that no other code covers.
    Error,
    /// The command line, or a value on it, is not valid.
    Usage,
    /// Another request holds the lock, or the wait timed out.
    Held,
    /// The caller is not the owner (any more), the lease has expired, or the session is lost.
    Fenced,
    /// The caller's identity is not known, or may not do this.
    Denied,
    /// `lock`: the command could not be ended under a lost lock, so it was not started.
    WouldEscape,
    /// `lock`: a process of the command was, or is, out of reach.
    Escaped,
    /// A node ended itself, or was ended, because its disk does not finish a write (`EX_IOERR` of
    /// sysexits.h).
    DiskHangs,
    /// The signal with this number interrupted the verb. Shells and `lock` show it in the same way.
    Signal(u8),
}

impl Exit {
    /// The exit code of the process.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Held => 3,
            Exit::Fenced => 4,
            Exit::Denied => 5,
            Exit::WouldEscape => 7,
            Exit::Escaped => 6,
            Exit::DiskHangs => 74,
            Exit::Signal(number) => 128 + number,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// The code of a failure without an answer from the cluster: no gateway could be reached.
const UNREACHABLE: &str = "UNREACHABLE";

/// The failure of a verb to do its task.
#[derive(Clone, Debug)]
pub struct Failure {
    pub exit: Exit,
    /// Everything has been printed already, so only the exit code is left to set.
    pub told: bool,
    /// The code for programs: a name of [`ErrorCode`], or one of this program's own.
    pub code: String,
    /// The message about the event.
    pub message: String,
    /// The advice about the next step.
    pub next: String,
    /// The token that holds the name now, if the error carries it.
    pub current_token: Option<u64>,
    /// The owner that holds the name now, if the error carries it.
    pub holder: Option<String>,
}

impl Failure {
    pub fn new(
        exit: Exit,
        code: &str,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Failure {
        let (code, message, next) = (code.into(), message.into(), next.into());
        Failure { exit, told: false, code, message, next, current_token: None, holder: None }
    }

    /// A failure that the printed output already describes in full.
    pub fn already_told(exit: Exit) -> Failure {
        Failure { told: true, ..Failure::new(exit, "", "", "") }
    }

    /// A command line that could not be parsed, in the parser's words for people: the mistake, then
    /// tips and usage.
    pub fn of_usage(error: &clap::Error) -> Failure {
        let told = error.render().to_string();
        let told = told.strip_prefix("error: ").unwrap_or(&told);
        let in_one_line = |part: &str| part.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_advice = |part: &str| {
            ["tip: ", "Usage: ", "For more "].iter().any(|start| part.starts_with(start))
        };
        let (next, message): (Vec<String>, Vec<String>) = told
            .split("\n\n")
            .map(in_one_line)
            .filter(|part| !part.is_empty())
            .partition(|part| is_advice(part));
        Failure::new(
            Exit::Usage,
            ErrorCode::InvalidArgument.name(),
            message.join("; "),
            next.join("; "),
        )
    }

    /// Prints to standard error for people, or as `{"error":{…}}` to standard output for programs.
    pub fn print(&self, json: bool) {
        if self.told {
            // Nothing to add.
        } else if json {
            print_json(&self.for_programs());
        } else {
            // The exit code reports the failure too, if standard error has no reader.
            let _ = std::io::stderr().write_all(self.for_people().as_bytes());
        }
    }

    /// The JSON document for programs.
    pub fn for_programs(&self) -> json::Failed {
        let Failure { exit: _, told: _, code, message, next, current_token, holder } = self.clone();
        json::Failed { error: json::Failure { code, current_token, holder, message, next } }
    }

    /// The event and the next step, for people. Characters from names are shown without any effect
    /// on the terminal.
    pub fn for_people(&self) -> String {
        let lines = |text: &str| text.lines().map(one_line).collect::<Vec<_>>().join("\n");
        match self.next.as_str() {
            "" => format!("error: {}\n", lines(&self.message)),
            next => format!("error: {}\n  next: {}\n", lines(&self.message), lines(next)),
        }
    }
}

/// The advice for a value that a server refuses, if nothing more is known.
pub const CORRECT_THE_VALUE: &str = "correct the value and run it again";

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        if error.is_unreachable() {
            let next = "start one (`palisade dev` runs a whole cluster), or name another with --endpoint, PALISADE_ENDPOINT or a profile";
            return Failure::new(Exit::Error, UNREACHABLE, one_line(&error.message), next);
        }
        let code = error.code;
        let (exit, next) = match code {
            ErrorCode::InvalidArgument => (Exit::Usage, CORRECT_THE_VALUE),
            ErrorCode::VersionMoved => {
                (Exit::Error, "plan again with --dry-run, and give the version that it shows")
            }
            ErrorCode::Held => (
                Exit::Held,
                "add --wait 10s to queue for it, or see who holds it with `palisade check`",
            ),
            ErrorCode::WaitTimeout => {
                (Exit::Held, "wait longer with --wait, or look at the holder with `palisade check`")
            }
            ErrorCode::WaitCancelled => (Exit::Held, "acquire again if the lock is still wanted"),
            ErrorCode::NotOwner => (
                Exit::Fenced,
                "see who holds it with `palisade check`, and what became of this token with `palisade history`; acquire again for a new one",
            ),
            ErrorCode::Expired => {
                (Exit::Fenced, "acquire it again, with a longer --ttl or earlier renewals")
            }
            ErrorCode::SessionLost => (
                Exit::Fenced,
                "what the session held is lost: open a new session and acquire again",
            ),
            ErrorCode::Busy => (Exit::Error, "try again in a moment: a queue or a limit is full"),
            ErrorCode::NoLeader => (
                Exit::Error,
                "try again in a moment; if it goes on, see which nodes are down: palisade cluster status",
            ),
            ErrorCode::ShuttingDown => (Exit::Error, "try again in a moment"),
            ErrorCode::OutcomeUnknown => (
                Exit::Error,
                "it may or may not have been done: look with `palisade check`, or retry an acquire with its --request-id",
            ),
            ErrorCode::Unauthenticated => {
                (Exit::Denied, "show who you are: --cert and --key, or --token-file")
            }
            ErrorCode::PermissionDenied => {
                (Exit::Denied, "ask for the permission, or use a name that you may use")
            }
            ErrorCode::Internal | ErrorCode::Unspecified => {
                (Exit::Error, "see the logs of the gateway and the nodes")
            }
        };
        let mut failure = Failure::new(exit, code.name(), one_line(&error.message), next);
        failure.current_token = error.current_token;
        failure.holder = error.holder;
        failure
    }
}

pub use crate::shown::one_line;

#[cfg(test)]
mod tests {
    use super::*;
    use wire::v1::Error as WireError;

    fn failure(error: WireError) -> Failure {
        client::Error::from(error).into()
    }

    #[test]
    fn exit_codes_follow_what_the_caller_should_do() {
        for (code, exit) in [
            (ErrorCode::InvalidArgument, Exit::Usage),
            (ErrorCode::Held, Exit::Held),
            (ErrorCode::WaitTimeout, Exit::Held),
            (ErrorCode::NotOwner, Exit::Fenced),
            (ErrorCode::Expired, Exit::Fenced),
            (ErrorCode::SessionLost, Exit::Fenced),
            (ErrorCode::NoLeader, Exit::Error),
            (ErrorCode::OutcomeUnknown, Exit::Error),
        ] {
            assert_eq!(failure(WireError::new(code, "m")).exit, exit, "{code:?}");
        }
    }

    #[test]
    fn a_command_line_that_cannot_be_parsed_is_a_failure_like_any_other() {
        use clap::Parser;
        let of = |line: &str| {
            Failure::of_usage(&crate::args::Cli::try_parse_from(line.split(' ')).expect_err(line))
        };
        let missing = of("palisade renew a --json");
        assert_eq!((missing.exit, missing.code.as_str()), (Exit::Usage, "INVALID_ARGUMENT"));
        assert_eq!(
            missing.message,
            "the following required arguments were not provided: --token <TOKEN>"
        );
        assert!(missing.next.starts_with("Usage: palisade renew"), "{}", missing.next);
        let unknown = of("palisade acquire a --tll 5s --json");
        assert_eq!(unknown.message, "unexpected argument '--tll' found");
        assert!(
            unknown.next.starts_with("tip: a similar argument exists: '--ttl'"),
            "{}",
            unknown.next
        );
    }

    #[test]
    fn programs_get_the_holder_and_people_get_one_line() {
        let held = failure(WireError::held("held\nby\x1b[31m b", 7, "b"));
        let json = &serde_json::to_value(held.for_programs()).unwrap()["error"];
        assert_eq!(json["code"], "HELD");
        assert_eq!(json["current_token"], 7);
        assert_eq!(json["holder"], "b");
        assert_eq!(json["message"], "held\\u{a}by\\u{1b}[31m b");
    }
}
