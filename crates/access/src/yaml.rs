//! Reading YAML that people write, with errors for people.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

/// Most bytes of a file. A larger one is a mistake, or an attempt to use up memory.
const BYTES_MAX: usize = 4 << 20;

/// A file that cannot be used: all problems, one for each line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct FileError(pub(crate) Vec<String>);

impl FileError {
    /// A file that is not UTF-8 from this byte on.
    pub fn not_utf8(at: usize) -> FileError {
        FileError::one(format!("it is not UTF-8 from byte {at} on: save it as UTF-8"))
    }

    pub(crate) fn one(problem: impl Into<String>) -> FileError {
        FileError(vec![problem.into()])
    }
}

/// Parses a file.
///
/// # Errors
/// The first problem, with its line, and the key that was probably meant.
pub(crate) fn parse<T: DeserializeOwned>(yaml: &str) -> Result<T, FileError> {
    if yaml.len() > BYTES_MAX {
        return Err(FileError::one(format!(
            "it has {} bytes: at most {BYTES_MAX} are read",
            yaml.len()
        )));
    }
    let explained = |error: serde_yaml::Error| FileError::one(with_nearest_key(error.to_string()));
    // A map of values refuses a key that occurs twice. A typed map would keep the last one, and a
    // role that is written twice would silently lose its first half.
    serde_yaml::from_str::<serde_yaml::Value>(yaml).map_err(explained)?;
    serde_yaml::from_str(yaml).map_err(explained)
}

/// Reads `roles:` with nothing after it like a missing `roles:`.
pub(crate) fn empty_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Adds the key that was probably meant to an error about an unknown one.
fn with_nearest_key(message: String) -> String {
    // serde: "unknown field `x`, expected one of `a`, `b` at line 1 column 2"
    let Some((_, rest)) = message.split_once("unknown field `") else { return message };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    // From here on, every second part was in quotes.
    match nearest(unknown, quoted.skip(1).step_by(2)) {
        Some(key) => format!("{message}: did you mean `{key}`?"),
        None => message,
    }
}

/// The known word that is most like this one, if any is like it.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A longer word is a mistake of another kind, and comparing it would cost time.
    if word.len() > 64 {
        return None;
    }
    let nearest = known
        .filter(|other| other.len() <= 64)
        .map(|other| (strsim::levenshtein(word, other), other))
        .min()?;
    (nearest.0 <= word.len().max(nearest.1.len()) / 2).then_some(nearest.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_like_it() {
        let verbs = ["hold", "read", "watch", "break"];
        assert_eq!(nearest("hodl", verbs.into_iter()), Some("hold"));
        assert_eq!(nearest("raed", verbs.into_iter()), Some("read"));
        assert_eq!(nearest("zzzzzzzz", verbs.into_iter()), None);
    }
}
