//! HTTP/1.1 by hand, to see what a gateway really answers.
#![allow(dead_code)] // each test file uses its own part of it

use crate::fake::Fakes;
use serde_json::Value;
use std::collections::BTreeMap;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A connection to the port for clients.
pub struct Http(BufReader<TcpStream>);

/// An answer. The names of its headers are in lower case.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

impl Answered {
    /// The status and the code of a problem.
    pub fn problem(&self) -> (u16, &str) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status, "{self:?}");
        (self.status, self.body["code"].as_str().expect("a code"))
    }
}

/// A request, with a body of JSON unless that is empty.
pub fn request(verb: &str, path: &str, headers: &str, body: &str) -> String {
    let content = match body {
        "" => String::new(),
        body => format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()),
    };
    format!("{verb} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}{content}\r\n{body}")
}

impl Http {
    pub async fn to(fakes: &Fakes) -> Http {
        Http(BufReader::new(TcpStream::connect(fakes.gateway.address()).await.unwrap()))
    }

    pub async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// The next answer. `None` if the gateway closed the connection instead.
    pub async fn next(&mut self) -> Option<Answered> {
        let mut answered = self.head().await?;
        let length = answered.headers.get("content-length").map(|length| length.parse().unwrap());
        let mut body = vec![0; length.unwrap_or(0)];
        self.0.read_exact(&mut body).await.unwrap();
        answered.body = serde_json::from_slice(&body).unwrap_or_default();
        Some(answered)
    }

    /// The next answer without its body, which stays unread.
    pub async fn head(&mut self) -> Option<Answered> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await.unwrap_or(0) == 0 {
            return None;
        }
        let status = line.split(' ').nth(1).expect("a status").parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        Some(Answered { status, headers, body: Value::Null })
    }

    pub async fn ask_with(
        &mut self,
        verb: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> Answered {
        self.send(&request(verb, path, headers, body)).await;
        self.next().await.unwrap_or_else(|| panic!("{verb} {path}: closed"))
    }

    pub async fn ask(&mut self, verb: &str, path: &str, body: &str) -> Answered {
        self.ask_with(verb, path, "", body).await
    }
}

/// A valid request for each route: its method, path and body.
pub fn routes(name: &str) -> Vec<(&'static str, String, String)> {
    let named = |rest: &str| format!(r#"{{"name":"{name}"{rest}}}"#);
    let path = str::to_owned;
    vec![
        ("POST", path("/v1/acquire"), named(r#","owner":"me","ttl":"30s","metadata":"note""#)),
        ("POST", path("/v1/renew"), named(r#","fencing_token":5"#)),
        ("POST", path("/v1/release"), named(r#","fencing_token":5"#)),
        ("POST", path("/v1/break"), named(r#","fencing_token":5,"reason":"gone""#)),
        ("GET", format!("/v1/check?name={name}"), String::new()),
        ("GET", format!("/v1/history?name={name}&limit=5"), String::new()),
        ("GET", format!("/v1/locks?prefix={name}&limit=5"), String::new()),
        ("POST", path("/v1/sessions"), r#"{"ttl_ms":20000}"#.to_owned()),
        ("POST", path("/v1/sessions/s%201/heartbeat"), r#"{"shards":[0]}"#.to_owned()),
        ("DELETE", path("/v1/sessions/s%201?shards=0"), String::new()),
        ("GET", path("/v1/cluster"), String::new()),
        ("GET", path("/v1/cluster/topology"), String::new()),
        ("POST", path("/v1/cluster/plan"), r#"{"job":{"kind":"DRAIN","node":2}}"#.to_owned()),
        ("POST", path("/v1/cluster/jobs"), r#"{"kind":"DRAIN","node":2}"#.to_owned()),
        ("GET", path("/v1/cluster/jobs"), String::new()),
        ("DELETE", path("/v1/cluster/jobs/1?at_version=2"), String::new()),
        ("POST", path("/v1/cluster/settings"), r#"{"repair_after":"30m"}"#.to_owned()),
        ("GET", path("/v1/permissions"), String::new()),
        ("GET", path("/v1/plan"), String::new()),
        ("POST", path("/v1/plan"), r#"{"fields":{"instances":"10"}}"#.to_owned()),
        ("GET", path("/openapi.json"), String::new()),
        ("GET", path("/livez"), String::new()),
        ("GET", path("/readyz"), String::new()),
    ]
}
