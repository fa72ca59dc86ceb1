//! From YAML and to YAML, with errors for people.

use super::{ClusterConfig, ConfigError};
use std::path::Path;

impl ClusterConfig {
    /// Parses and validates; warnings are for people (an even replica count, a wide address without TLS, …).
    pub fn parse(yaml: &str) -> Result<(ClusterConfig, Vec<String>), ConfigError> {
        let config: ClusterConfig =
            serde_yaml::from_str(yaml).map_err(|error| ConfigError(explain(&error.to_string())))?;
        let warnings = config.validate()?;
        Ok((config, warnings))
    }

    /// [`parse`](ClusterConfig::parse)s a file; its path stands in every error.
    pub fn load(path: &Path) -> Result<(ClusterConfig, Vec<String>), ConfigError> {
        let yaml = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read the cluster file {}: {error}", path.display())))?;
        ClusterConfig::parse(&yaml).map_err(|error| ConfigError(format!("{}: {error}", path.display())))
    }

    /// A file that parses to this configuration.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("plain structs of strings and numbers serialise")
    }
}

/// Adds the key that was probably meant to an error about an unknown one.
fn explain(message: &str) -> String {
    // serde: "unknown field `x`, expected one of `a`, `b` at line 1 column 2"
    let Some((_, rest)) = message.split_once("unknown field `") else {
        return message.to_owned();
    };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    // Every second part from here on stands in quotes.
    let known = quoted.skip(1).step_by(2);
    let nearest = known.map(|key| (edit_distance(unknown, key), key)).min();
    match nearest {
        // Farther than this, it is another word.
        Some((distance, key)) if distance <= unknown.len().max(key.len()) / 2 => {
            format!("{message}: did you mean `{key}`?")
        }
        _ => message.to_owned(),
    }
}

/// How many characters must be inserted, deleted or replaced to get from one to the other (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distances() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("tick_ms", "tick", 3),
            ("ü", "u", 1),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a:?} {b:?}");
            assert_eq!(edit_distance(b, a), distance, "{b:?} {a:?}");
        }
    }

    #[test]
    fn an_unknown_key_gets_its_neighbour_or_none() {
        let message = "unknown field `shard`, expected one of `cluster`, `shards`, `replicas` at line 1 column 1";
        assert!(explain(message).ends_with("did you mean `shards`?"), "{}", explain(message));
        let far = "unknown field `zzzzzzzz`, expected one of `cluster`, `shards`";
        assert_eq!(explain(far), far);
        let other = "missing field `cluster`";
        assert_eq!(explain(other), other);
    }
}
