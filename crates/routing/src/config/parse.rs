//! Reading and writing the YAML of a cluster file, with errors for people.

use super::{ClusterConfig, ConfigError};
use serde::{Deserialize, Deserializer};
use std::path::Path;

/// Reads `settings:` with nothing after it like a missing `settings:`.
pub(super) fn empty_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl ClusterConfig {
    /// Parses and validates a cluster file. Returns warnings for people, for example about an even
    /// replica count or a public address without TLS.
    ///
    /// # Errors
    /// All problems, each with the change to make in the file.
    pub fn parse(yaml: &str) -> Result<(ClusterConfig, Vec<String>), ConfigError> {
        let yaml = yaml.strip_prefix(BYTE_ORDER_MARK).unwrap_or(yaml);
        if yaml.trim().is_empty() {
            return Err(ConfigError(
                "it is empty: describe a cluster, as the examples in config/ do".to_owned(),
            ));
        }
        let config: ClusterConfig =
            serde_yaml::from_str(yaml).map_err(|error| ConfigError(explain(yaml, &error)))?;
        let warnings = config.validate()?;
        Ok((config, warnings))
    }

    /// Reads and [parses](ClusterConfig::parse) the file at `path`. Every error begins with the
    /// path.
    ///
    /// # Errors
    /// If the file cannot be read, and those of [`parse`](ClusterConfig::parse).
    pub fn load(path: &Path) -> Result<(ClusterConfig, Vec<String>), ConfigError> {
        let read = std::fs::read(path);
        let bytes = read.map_err(|error| {
            ConfigError(format!("cannot read the cluster file {}: {error}", path.display()))
        })?;
        let (mut config, warnings) = ClusterConfig::parse_bytes(&bytes)
            .map_err(|error| ConfigError(format!("{}: {error}", path.display())))?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        Ok((config, warnings))
    }

    /// Puts `directory`, which is that of the cluster file, before all relative paths in the
    /// configuration. [`load`](ClusterConfig::load) does so by itself.
    pub fn resolve_paths(&mut self, directory: &Path) {
        let ClusterConfig { tls, access, audit, .. } = self;
        let mut paths: Vec<&mut String> = Vec::new();
        if let Some(tls) = tls {
            paths.extend(
                tls.inside.iter_mut().flat_map(|tls| [&mut tls.cert, &mut tls.key, &mut tls.ca]),
            );
            if let Some(tls) = &mut tls.clients {
                paths.extend([&mut tls.cert, &mut tls.key]);
                paths.extend(&mut tls.client_ca);
            }
        }
        if let Some(access) = access {
            paths.push(&mut access.policy);
            paths.extend(&mut access.tokens);
            paths.extend(access.jwt.iter_mut().map(|jwt| &mut jwt.jwks));
        }
        paths.extend(audit.iter_mut().map(|audit| &mut audit.file));
        paths.into_iter().for_each(|path| under(directory, path));
    }

    /// [Parses](ClusterConfig::parse) the bytes of a file.
    ///
    /// # Errors
    /// If they are not UTF-8, and those of [`parse`](ClusterConfig::parse).
    pub fn parse_bytes(bytes: &[u8]) -> Result<(ClusterConfig, Vec<String>), ConfigError> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let before = &bytes[..error.valid_up_to()];
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            ConfigError(format!(
                "it is not UTF-8 (line {line}, byte {} of the file): save it as UTF-8",
                before.len()
            ))
        })?;
        ClusterConfig::parse(text)
    }

    /// A file that parses to this configuration.
    pub fn to_yaml(&self) -> String {
        serde_yaml::to_string(self).expect("plain structs of strings and numbers serialise")
    }
}

/// Puts the directory before a relative path. `-` stays.
fn under(directory: &Path, path: &mut String) {
    if path != "-" && Path::new(path.as_str()).is_relative() {
        *path = directory.join(&*path).to_string_lossy().into_owned();
    }
}

/// Some editors begin a file with it.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The error for people, with the tab that YAML does not accept or the key that was probably meant.
fn explain(yaml: &str, error: &serde_yaml::Error) -> String {
    let message = error.to_string();
    // For a line that is indented with a tab, the parser only says that a character cannot start a
    // token, on that line or the next one.
    let broken = error.location().map_or(1, |place| place.line());
    let indent = |line: &str| line.len() - line.trim_start().len();
    let near = yaml.lines().enumerate().skip(broken.saturating_sub(2)).take(3);
    let tab = near
        .map(|(at, line)| (at + 1, &line[..indent(line)]))
        .find(|(_, indent)| indent.contains('\t'));
    match tab {
        Some((line, _)) => format!("{message}: line {line} is indented with a tab; use spaces"),
        None => with_nearest_key(with_lines(yaml, message)),
    }
}

/// Adds the line numbers of a key that occurs twice. The parser names only the key.
fn with_lines(yaml: &str, message: String) -> String {
    let Some(key) =
        message.split("duplicate field `").nth(1).and_then(|rest| rest.split('`').next())
    else {
        return message;
    };
    let has_key =
        |line: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with(':'));
    let lines: Vec<String> = yaml
        .lines()
        .zip(1..)
        .filter(|(line, _)| has_key(line))
        .map(|(_, number)| i32::to_string(&number))
        .collect();
    match lines.len() {
        0 | 1 => message, // the key is nested
        _ => format!("{message}, in lines {}", lines.join(" and ")),
    }
}

/// Adds the key that was probably meant to an error about an unknown one.
fn with_nearest_key(message: String) -> String {
    // serde: "unknown field `x`, expected one of `a`, `b` at line 1 column 2"
    let Some((_, rest)) = message.split_once("unknown field `") else {
        return message;
    };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    // From here on, every second part was in quotes.
    let known = quoted.skip(1).step_by(2);
    let nearest = known.map(|key| (strsim::levenshtein(unknown, key), key)).min();
    match nearest {
        // A key that is farther away is another word.
        Some((distance, key)) if distance <= unknown.len().max(key.len()) / 2 => {
            format!("{message}: did you mean `{key}`?")
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_gets_its_neighbour_or_none() {
        let message = "unknown field `shard`, expected one of `cluster`, `shards`, `replicas` at line 1 column 1";
        assert!(
            with_nearest_key(message.to_owned()).ends_with("did you mean `shards`?"),
            "{}",
            with_nearest_key(message.to_owned())
        );
        let far = "unknown field `zzzzzzzz`, expected one of `cluster`, `shards`";
        assert_eq!(with_nearest_key(far.to_owned()), far);
        let other = "missing field `cluster`";
        assert_eq!(with_nearest_key(other.to_owned()), other);
    }
}
