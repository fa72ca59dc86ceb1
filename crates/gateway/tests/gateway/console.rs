//! The files of the console, on the port for clients.

use crate::identified::{Files, answer_all};
use crate::raw::{Http, request};

const POLICY: &str = "roles: {}\nbindings: []\n";

/// The pages hold no data, so they come before anybody has signed in, and from a link on another
/// site. A browser may do nothing with them that the policy of content does not permit.
#[tokio::test]
async fn pages_need_no_identity_and_have_a_strict_policy() {
    let files = Files::of(POLICY);
    let fakes = files.start(answer_all).await;
    let mut http = Http::to(&fakes).await;
    for (path, content_type) in
        [("/", "text/html; charset=utf-8"), ("/console/app.js", "text/javascript; charset=utf-8")]
    {
        let from_a_link = "sec-fetch-site: cross-site\r\n";
        http.send(&request("HEAD", path, from_a_link, "")).await;
        let answered = http.head().await.unwrap();
        assert_eq!(answered.status, 200, "{path}");
        let headers = &answered.headers;
        assert_eq!(headers["content-type"], content_type);
        assert!(headers["content-security-policy"].starts_with("default-src 'none'; "));
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["referrer-policy"], "no-referrer");
        let kept = format!("if-none-match: {}\r\n", headers["etag"]);
        http.send(&request("GET", path, &kept, "")).await;
        assert_eq!(http.head().await.unwrap().status, 304, "{path}");
    }
    assert_eq!(http.ask("GET", "/console/nothing.js", "").await.problem(), (404, "NOT_FOUND"));
    assert_eq!(fakes.seen().len(), 0);
}
