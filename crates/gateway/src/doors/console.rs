//! The web console: files that are the same for every client.
//!
//! They hold no data and reach no node, so they need no identity. What the pages ask for comes
//! through the door for HTTP, with the identity and the permissions of their reader.

use axum::Router;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use console::{FILES, File, HEADERS};

/// Adds a route for each file.
pub(crate) fn with_files(routes: Router) -> Router {
    FILES.iter().fold(routes, |routes, file| {
        routes.route(file.path, get(move |headers| async move { served(file, &headers) }))
    })
}

/// A file, or 304 for a browser that has it.
fn served(file: &'static File, asked: &HeaderMap) -> Response {
    let etag = file.etag();
    let is_kept = asked.get(IF_NONE_MATCH).is_some_and(|kept| kept.as_bytes() == etag.as_bytes());
    let mut response = match is_kept {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => ([(CONTENT_TYPE, file.content_type)], file.bytes).into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        headers.insert(ETAG, etag);
    }
    response
}
