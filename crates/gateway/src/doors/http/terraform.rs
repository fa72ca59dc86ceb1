//! Locks for the http backend of Terraform and OpenTofu: the methods LOCK and UNLOCK on a path that
//! ends with the name of the lock.
//!
//! * The backend sends a JSON document about the lock, and shows the one of the holder to people.
//!   It is kept as the metadata of the lock, and answered byte for byte.
//! * The backend knows no tokens. Its `ID` is random, so it serves as the request id of the
//!   acquire. A release looks for the holder with the `ID` in its document.
//! * The state itself is kept elsewhere.

use super::problem::{Problem, Refused};
use super::{Asked, COUNTED, Door, document, invalid, requests};
use crate::core::mismatched_answer;
use crate::visitor::Visitor;
use axum::http::header::{ALLOW, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};
use wire::OperationKind;
use wire::json as answers;
use wire::limits::{METADATA_BYTES_MAX, OWNER_BYTES_MAX};
use wire::v1::operation::Op;
use wire::v1::operation_result::Result as Answer;
use wire::v1::{AcquireRequest, CheckRequest, Error, ErrorCode, Grant, Operation, ReleaseRequest};

/// The TTL of a lock that names none: the longest, because the backend does not renew.
const TTL_MS: u32 = *wire::limits::TTL_MS.end();

/// The document of a lock, as the backend sent it.
struct LockInfo {
    id: String,
    who: String,
    text: String,
}

/// The password of HTTP's basic authentication.
fn password(header: &[u8]) -> Option<String> {
    let (scheme, rest) = std::str::from_utf8(header).ok()?.trim().split_once(' ')?;
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    scheme.eq_ignore_ascii_case("basic").then(|| password.to_owned())
}

impl Door {
    /// Whether the route is one of these.
    pub(super) fn is_for_terraform(&self) -> bool {
        matches!(self.verb, "LOCK" | "UNLOCK")
    }

    /// Takes the password of a request for these routes as its bearer token, because the backend
    /// can send no other.
    pub(super) fn sign_in(&self, visitor: &mut Visitor) {
        let token = visitor.proof.header.as_ref().and_then(|header| password(header.as_bytes()));
        let header = token.and_then(|token| HeaderValue::try_from(format!("Bearer {token}")).ok());
        if let Some(mut header) = header
            && self.is_for_terraform()
        {
            header.set_sensitive(true);
            visitor.proof.header = Some(header);
        }
    }

    /// The answer to a request for the state.
    pub(super) fn no_state() -> Response {
        let mut response = Problem::from(Refused::NoState).into_response();
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("LOCK, UNLOCK"));
        response
    }

    /// Takes a lock. If another holds it, the answer is status 423 with the document of the holder.
    pub(super) async fn lock(&self, asked: Asked) -> Result<Response, Problem> {
        let query = asked.query::<requests::Terraform>()?;
        let info = LockInfo::of(&asked)?.ok_or_else(no_document)?;
        let name = asked.of_path.clone();
        let visitor = asked.into_visitor();
        let acquire = AcquireRequest {
            name: name.clone(),
            // With identities, the owner is bound to the identity.
            owner: visitor.caller.identity().map_or(info.who, |_| String::new()),
            ttl_ms: query.ttl_ms()?.unwrap_or(TTL_MS),
            request_id: requests::request_id(info.id.as_bytes()).map_err(|_| {
                invalid("the ID of the lock is no UUID: Terraform makes a random one for each lock")
            })?,
            metadata: info.text,
            ..AcquireRequest::default()
        };
        let operation = Operation::of(Op::Acquire(acquire));
        let answer = self.single.operation(visitor.clone(), operation, COUNTED).await?;
        match answer {
            Answer::Error(error) if error.code() == ErrorCode::Held => {
                self.locked(visitor, &name, error).await
            }
            Answer::Error(error) => Err(error.into()),
            answer => match answer.into_grant() {
                Some(grant) => document(answers::Grant::from(&grant)),
                None => Err(mismatched_answer().into()),
            },
        }
    }

    /// The answer to a lock that another holds. A client that may not read the name, or comes when
    /// the holder has just gone, gets the refusal alone.
    async fn locked(&self, visitor: Visitor, name: &str, held: Error) -> Result<Response, Problem> {
        // A check that is not permitted would be recorded as a denied one.
        if self.single.router.is_redacted(&visitor, name) {
            return Err(held.into());
        }
        let check = CheckRequest { name: name.to_owned(), limit: 1, ..CheckRequest::default() };
        let checked = self.single.operation(visitor, Operation::of(Op::Check(check)), 0).await;
        let Ok(Answer::Check(checked)) = checked else { return Err(held.into()) };
        let Some(holder) = checked.holders.first() else { return Err(held.into()) };
        let text = match id_of(&holder.metadata) {
            Some(_) => holder.metadata.clone(),
            None => of_another_kind(holder).to_string(),
        };
        Ok((StatusCode::LOCKED, [(CONTENT_TYPE, "application/json")], text).into_response())
    }

    /// Releases the lock with the ID of the request.
    pub(super) async fn unlock(&self, asked: Asked) -> Result<Response, Problem> {
        let query = asked.query::<requests::Terraform>()?;
        let id = match (LockInfo::of(&asked)?, query.id) {
            (Some(info), Some(id)) if !is_same(&info.id, &id) => {
                return Err(invalid("the body has another ID than the query: leave one out"));
            }
            (Some(info), _) => info.id,
            (None, Some(id)) => id,
            (None, None) => return Err(no_document()),
        };
        let name = asked.of_path.clone();
        let visitor = asked.into_visitor();
        let token = self.token_of(&visitor, &name, &id).await?;
        let release = ReleaseRequest { name: name.clone(), fencing_token: token, session_life: 0 };
        let operation = Operation::of(Op::Release(release));
        match self.single.operation(visitor, operation, COUNTED).await? {
            Answer::Error(error) => Err(error.into()),
            Answer::Release(released) => document(answers::Released::new(&name, token, &released)),
            _ => Err(mismatched_answer().into()),
        }
    }

    /// The token of the holder with this ID in its document. A client that may release the lock,
    /// and knows the ID, learns nothing by that. These locks are exclusive, so only one holder is
    /// looked at.
    async fn token_of(&self, visitor: &Visitor, name: &str, id: &str) -> Result<u64, Problem> {
        let router = &self.single.router;
        router.permit_kind(visitor, OperationKind::Release, name)?;
        let _place = router.admission.call()?;
        let check = CheckRequest { name: name.to_owned(), limit: 1, ..CheckRequest::default() };
        let operation = Operation::of(Op::Check(check));
        let checked = match router.serve(visitor.caller.clone(), operation).await {
            Answer::Check(checked) => checked,
            Answer::Error(error) => return Err(error.into()),
            _ => return Err(mismatched_answer().into()),
        };
        let has_id = |grant: &&Grant| id_of(&grant.metadata).is_some_and(|of| is_same(&of, id));
        match checked.holders.iter().find(has_id) {
            Some(holder) => Ok(holder.fencing_token),
            None => Err(not_held().into()),
        }
    }
}

impl LockInfo {
    /// The document of a request. `None` if the body is empty.
    fn of(asked: &Asked) -> Result<Option<LockInfo>, Problem> {
        if asked.body.is_empty() {
            return Ok(None);
        }
        if asked.body.len() > METADATA_BYTES_MAX {
            return Err(Refused::LockInfoTooLarge.into());
        }
        let value = asked.json::<Value>()?;
        let field = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (id, mut who) = (field("ID").to_owned(), field("Who").to_owned());
        if id.is_empty() {
            return Err(invalid("the document of the lock has no ID: send it as Terraform does"));
        }
        while who.len() > OWNER_BYTES_MAX {
            who.pop();
        }
        let text = String::from_utf8_lossy(&asked.body).into_owned(); // JSON is UTF-8
        Ok(Some(LockInfo { id, who, text }))
    }
}

/// The ID in a document.
fn id_of(metadata: &str) -> Option<String> {
    let value: Value = serde_json::from_str(metadata).ok()?;
    Some(value.get("ID")?.as_str()?.to_owned())
}

/// Whether two IDs are the same, as the acquire compares them: without case and dashes.
fn is_same(one: &str, other: &str) -> bool {
    let bytes = |id: &str| requests::request_id(id.as_bytes()).ok();
    one == other || bytes(one).is_some_and(|one| bytes(other) == Some(one))
}

/// A document about a holder that did not come from Terraform.
fn of_another_kind(holder: &Grant) -> Value {
    let created = UNIX_EPOCH + Duration::from_millis(holder.acquired_at_ms);
    let info = format!("not locked by Terraform: held with token {}", holder.fencing_token);
    json!({ "ID": "", "Operation": "", "Info": info, "Who": holder.owner_id, "Version": "",
        "Created": humantime::format_rfc3339_millis(created).to_string(), "Path": "" })
}

fn no_document() -> Problem {
    invalid(
        "the request does not say which lock: send the document of the lock with its ID, or give \
         ?ID=… in the address",
    )
}

fn not_held() -> Error {
    Error::not_owner(
        "no holder of this lock has this ID: it was unlocked before, broken, or its TTL ran out. \
         See who held it with palisade history",
        0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_a_token() {
        let of = |text: &str| password(text.as_bytes());
        assert_eq!(of("Basic YTpi").as_deref(), Some("b"));
        assert_eq!(of("basic  YTpiOmM=").as_deref(), Some("b:c"));
        for other in ["", "Bearer YTpi", "Basic", "Basic ?", "Basic YQ=="] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_holder_of_another_kind_is_told_in_the_words_of_terraform() {
        let holder = Grant { owner_id: "ann".into(), fencing_token: 7, ..Grant::default() };
        let told = of_another_kind(&holder);
        assert_eq!((&told["Who"], &told["ID"]), (&json!("ann"), &json!("")));
        assert_eq!(told["Created"], "1970-01-01T00:00:00.000Z");
        assert_eq!(id_of("the nightly job"), None);
    }
}
