//! The words for a failed call: the innermost cause that has a meaning.
//!
//! tonic's own outermost text is "transport error", and some causes below it are empty. A log line
//! or an error message made of those tells an operator nothing.

use tonic::Status;

/// Texts of the transport that only say that there was an error.
const SAYING_NOTHING: [&str; 4] = [
    "transport error",
    "h2 protocol error: http2 error",
    "operation was canceled",
    "connection error",
];

const CLOSED: &str = "the connection ended without a word: does another program listen there?";

fn says_something(words: &str) -> bool {
    let words = words.trim();
    !words.is_empty() && !SAYING_NOTHING.contains(&words)
}

/// The innermost cause of `error` that has a meaning.
///
/// ```
/// let refused = std::io::Error::other("connection refused");
/// assert_eq!(palisade_wire::root_cause(&refused), "connection refused");
/// ```
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut told = None;
    let mut cause = Some(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if says_something(&words) {
            told = Some(words);
        }
        cause = error.source();
    }
    told.unwrap_or_else(|| CLOSED.to_owned())
}

/// The message of `status`; if that says nothing, the root cause; if there is none, the code.
pub fn reason(status: &Status) -> String {
    if says_something(status.message()) {
        return status.message().to_owned();
    }
    match std::error::Error::source(status) {
        Some(cause) => root_cause(cause),
        None if status.message().trim().is_empty() => {
            format!("it answered {:?} and no words", status.code())
        }
        None => CLOSED.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_reason_is_empty() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Layer {
            text: &'static str,
            source: Option<Box<Layer>>,
        }
        let layer = |text, source: Option<Layer>| Layer { text, source: source.map(Box::new) };
        assert_eq!(root_cause(&layer("transport error", Some(layer("refused", None)))), "refused");
        assert_eq!(root_cause(&layer("why", Some(layer("transport error", None)))), "why");
        for nothing in ["", " ", "transport error", "h2 protocol error: http2 error"] {
            assert!(
                root_cause(&layer(nothing, Some(layer(nothing, None)))).contains("another program"),
                "{nothing:?}"
            );
            assert!(says_something(&reason(&Status::unknown(nothing))), "{nothing:?}");
        }
        assert!(!root_cause(&layer("", Some(layer("", None)))).is_empty());
        assert_eq!(reason(&Status::unknown("why")), "why");
        assert!(reason(&Status::unavailable("")).contains("Unavailable"));
    }
}
