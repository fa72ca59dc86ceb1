//! Bearer tokens that a client sends with each call.

use crate::reload::{File, Unreadable};
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};

/// The name under which the token is sent.
const HEADER: &str = "authorization";
/// How long a token that was read from a file is used before the file is looked at again.
const READ_EVERY: Duration = Duration::from_secs(1);

/// A bearer token: a text, or a file that is read again when it is a second old. So a token in a
/// file can be replaced while the client runs. Clones share the text that was read.
#[derive(Clone)]
pub struct Token {
    source: Source,
    read: Arc<Mutex<Option<Read>>>,
}

/// When the token was read, and how it is sent.
type Read = (Instant, MetadataValue<Ascii>);

#[derive(Clone)]
enum Source {
    File(PathBuf),
    Text(String),
}

impl Source {
    fn value(&self) -> Result<MetadataValue<Ascii>, NoToken> {
        let text = match self {
            Source::Text(text) => text.clone(),
            Source::File(path) => {
                let bytes = File::read(path)?.bytes;
                String::from_utf8(bytes).map_err(|_| NoToken::NotAToken)?
            }
        };
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NoToken::NotAToken);
        }
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| NoToken::NotAToken)?;
        value.set_sensitive(true); // no log shows it
        Ok(value)
    }
}

/// Why there is no token to send.
#[derive(Debug, thiserror::Error)]
pub enum NoToken {
    /// Its file cannot be read.
    #[error("the token: {0}")]
    Unreadable(#[from] Unreadable),
    /// It is empty, or has bytes that no token has.
    #[error("the token is empty, or has characters that cannot be sent: give one line of ASCII")]
    NotAToken,
}

impl Token {
    /// The token in this file, without the white space around it.
    pub fn file(path: impl Into<PathBuf>) -> Token {
        Token { source: Source::File(path.into()), read: Arc::default() }
    }

    /// This token.
    pub fn text(token: impl Into<String>) -> Token {
        Token { source: Source::Text(token.into()), read: Arc::default() }
    }

    /// Puts the token into the metadata of a call.
    ///
    /// # Errors
    /// [`NoToken`] if it cannot be read or sent.
    pub fn put(&self, metadata: &mut MetadataMap) -> Result<(), NoToken> {
        metadata.insert(HEADER, self.value()?);
        Ok(())
    }

    fn value(&self) -> Result<MetadataValue<Ascii>, NoToken> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, value)) = &*read
            && (at.elapsed() < READ_EVERY || matches!(self.source, Source::Text(_)))
        {
            return Ok(value.clone());
        }
        let value = match (self.source.value(), &*read) {
            (Ok(value), _) => value,
            // The file is being replaced, or was lost: the server decides about the former token.
            (Err(_), Some((_, former))) => former.clone(),
            (Err(error), None) => return Err(error),
        };
        *read = Some((Instant::now(), value.clone()));
        Ok(value)
    }
}

/// Without the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::File(path) => write!(f, "Token({})", path.display()),
            Source::Text(_) => f.write_str("Token(…)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_whole_and_shown_nowhere() {
        let mut metadata = MetadataMap::new();
        let token = Token::text(" abc.def \n");
        token.put(&mut metadata).unwrap();
        assert_eq!(metadata.get(HEADER).unwrap().to_str().unwrap(), "Bearer abc.def");
        assert!(!format!("{token:?} {metadata:?}").contains("abc"));
        for bad in ["", " \n", "a\nb", "ä"] {
            assert!(Token::text(bad).put(&mut metadata).is_err(), "{bad:?}");
        }
        assert!(Token::file("/nowhere").put(&mut metadata).is_err());
    }
}
