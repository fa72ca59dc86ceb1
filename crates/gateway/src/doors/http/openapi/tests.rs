//! The document has all routes and all fields, and `docs/reference/http.md` says the same.
//!
//! `PALISADE_BLESS=1 cargo test -p palisade-gateway --lib reference` writes the page anew.

use super::*;
use crate::doors::http::problem::{Refused, status};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;
use wire::v1::{self, ErrorCode};

const PAGE: &str = "\
# HTTP with JSON

Every route of a gateway's port for clients, which speaks HTTP/1.1 and HTTP/2 beside gRPC.
`GET /openapi.json` shows the same as OpenAPI 3.1. How to use it is in
[HTTP](../guide/http.md).

<!-- Written by `PALISADE_BLESS=1 cargo test -p palisade-gateway --lib reference`. -->

## Routes
";

/// All routes of the document, as path and key.
fn routes(document: &Value) -> BTreeSet<(String, String)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of = |(path, verbs): (&String, &Value)| {
        let verbs = verbs.as_object().unwrap().keys();
        verbs.map(|verb| (path.clone(), verb.clone())).collect::<Vec<_>>()
    };
    paths.flat_map(of).collect()
}

#[test]
fn the_document_has_all_routes_and_no_others() {
    let rows = ROUTES.iter().map(|(verb, path, _)| in_document(verb, path));
    assert_eq!(routes(&document()), rows.collect());
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(to)) = fields.get("$ref") {
                    found.push(to.clone());
                }
                fields.values().for_each(|field| references(field, found));
            }
            Value::Array(values) => values.iter().for_each(|one| references(one, found)),
            _ => {}
        }
    }
    let (document, mut found) = (document(), Vec::new());
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for to in found {
        let pointer = to.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{to}");
    }
}

#[test]
fn the_document_has_every_field_of_the_answers() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let tenure = answers::Tenure::from(&v1::Tenure::default());
    let status = v1::ClusterStatusResponse {
        nodes: vec![v1::NodeStatus::default()],
        shards: vec![v1::ShardStatus {
            members: vec![v1::Member::default()],
            role: "leader".into(),
            ..Default::default()
        }],
        topology: vec![v1::ShardStatus::default()],
        ..Default::default()
    };
    let status = serde_json::to_value(answers::ClusterStatus::from(&status)).unwrap();
    let shard = &status["shards"][0];
    let error = v1::Error { retry_after_ms: 1, ..v1::Error::held("held", 1, "bob") };
    let topology = v1::ClusterTopology {
        nodes: vec![v1::TopologyNode::default()],
        shards: vec![v1::TopologyShard::default()],
        jobs: vec![v1::Job::default()],
        ..Default::default()
    };
    let topology = serde_json::to_value(answers::Topology::from(&topology)).unwrap();
    let plan = v1::ChangePlan {
        shards: vec![v1::ShardPlan {
            steps: vec![v1::MemberStep::default()],
            ..Default::default()
        }],
        leaders: vec![v1::LeaderPlan::default()],
        ..Default::default()
    };
    let plan = serde_json::to_value(answers::ChangePlan::from(&plan)).unwrap();
    let beat = answers::SessionRenewed::new("s", &Default::default());
    let of = |document: &dyn erased::Document| document.value();
    for (name, sample) in [
        ("Grant", of(&answers::Grant::from(&v1::Grant::default()))),
        ("Renewed", of(&answers::Renewed::new("a", 1, &Default::default()))),
        ("Released", of(&answers::Released::new("a", 1, &Default::default()))),
        ("Check", of(&answers::Check::new("a", &Default::default()))),
        ("History", of(&answers::History::new("a", &[]))),
        ("Tenure", of(&tenure)),
        ("Locks", of(&answers::Locks::from(&v1::ListResponse::default()))),
        ("Waiter", of(&answers::Waiter::from(&v1::Waiter::default()))),
        ("SessionLease", of(&answers::SessionLease::from(&Default::default()))),
        ("SessionOpened", of(&answers::SessionOpened::from(&Default::default()))),
        ("SessionRenewed", of(&answers::SessionRenewed::new("s", &Default::default()))),
        ("SessionClosed", of(&answers::SessionClosed { released: 0, session_id: "s".into() })),
        ("Event", of(&answers::Event::from(&v1::Event::default()))),
        ("Waiter", of(&answers::Waiter::from(&v1::Waiter::default()))),
        ("WatchState", of(&answers::WatchState::from(&v1::WatchState::default()))),
        ("Node", status["nodes"][0].clone()),
        ("Replica", shard["replicas"][0].clone()),
        ("Member", shard["members"][0].clone()),
        ("Shard", shard.clone()),
        ("TopologyGroup", status["topology"].clone()),
        ("ClusterStatus", status.clone()),
        ("Topology", topology.clone()),
        ("TopologyNode", topology["nodes"][0].clone()),
        ("Group", topology["shards"][0].clone()),
        ("Job", topology["jobs"][0].clone()),
        ("Settings", topology["settings"].clone()),
        ("Jobs", of(&answers::Jobs { jobs: Vec::new() })),
        ("JobStarted", of(&answers::JobStarted { job: 1, version: 1 })),
        ("Changed", of(&answers::Changed { version: 1 })),
        ("ChangePlan", plan.clone()),
        ("ShardPlan", plan["shards"][0].clone()),
        ("MemberStep", plan["shards"][0]["steps"][0].clone()),
        ("LeaderPlan", plan["leaders"][0].clone()),
        ("Liveness", of(&answers::Liveness::new(None))),
        ("Readiness", of(&answers::Readiness::new(Vec::new()))),
        ("Missing", of(&answers::Missing::new("LEADER", "none"))),
        ("Problem", of(&Problem::of_heartbeat(error, beat))),
    ] {
        let fields: BTreeSet<&String> = sample.as_object().expect(name).keys().collect();
        let schema = &schemas[name]["properties"];
        let told: BTreeSet<&String> = schema.as_object().expect(name).keys().collect();
        assert_eq!(told, fields, "{name}");
        for (field, schema) in schema.as_object().unwrap() {
            assert!(schema.get("description").is_some(), "{name}.{field} has no description");
        }
    }
}

/// Answers of different types in one list.
mod erased {
    pub trait Document {
        fn value(&self) -> serde_json::Value;
    }

    impl<D: serde::Serialize> Document for D {
        fn value(&self) -> serde_json::Value {
            serde_json::to_value(self).unwrap()
        }
    }
}

/// A description as one line.
fn line(value: &Value) -> String {
    let text = value["description"].as_str().unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The fields of a schema. `otherwise` is the text after the name of a field that is not required.
fn fields(page: &mut String, schema: &Value, otherwise: &str) {
    let required = schema["required"].as_array();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let needed = required.is_some_and(|all| all.iter().any(|one| one == name));
        let needed = if needed { "" } else { otherwise };
        writeln!(page, "- `{name}`{needed}: {}", line(field)).unwrap();
    }
}

fn page() -> String {
    let document = document();
    let schema_of = |content: &Value| {
        let content = content["content"].as_object().unwrap().values().next().unwrap().clone();
        let name = content["schema"]["$ref"].as_str().unwrap_or_default().to_owned();
        name.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let mut page = PAGE.to_owned();
    for (verb, path, _) in ROUTES {
        let (path, key) = in_document(verb, path);
        let route = &document["paths"][&path][key];
        writeln!(page, "\n### {verb} {path}\n\n{}", route["summary"].as_str().unwrap()).unwrap();
        let parameters = route["parameters"].as_array().unwrap();
        if !parameters.is_empty() {
            page.push('\n');
        }
        for parameter in parameters {
            let (name, at) = (&parameter["name"], &parameter["in"]);
            let needed = if parameter["required"] == true { "" } else { ", optional" };
            let (name, at) = (name.as_str().unwrap(), at.as_str().unwrap());
            writeln!(page, "- `{name}` ({at}{needed}): {}", line(parameter)).unwrap();
        }
        if let Some(body) = route.get("requestBody") {
            page.push_str("\nFields of the body:\n\n");
            let schemas = &document["components"]["schemas"];
            let body = &schemas[schema_of(body)];
            fields(&mut page, body, " (optional)");
            for (name, field) in body["properties"].as_object().into_iter().flatten() {
                if let Some(of) = field["items"]["$ref"].as_str() {
                    let of = &schemas[of.rsplit('/').next().unwrap_or_default()];
                    writeln!(page, "\nFields of each of `{name}`:\n").unwrap();
                    fields(&mut page, of, " (optional)");
                }
            }
        }
        let answer = schema_of(&route["responses"]["200"]);
        if !answer.is_empty() {
            let anchor = answer.to_lowercase();
            writeln!(page, "\nAnswers [{answer}](#{anchor}).").unwrap();
        }
    }
    page.push_str("\n## Answers\n");
    let requests = [
        "Acquire",
        "Renew",
        "Release",
        "Break",
        "OpenSession",
        "Heartbeat",
        "Lease",
        "Plan",
        "StartJob",
        "ChangeSetting",
        "PlanChange",
    ];
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        if schema.get("properties").is_some() && !requests.contains(&name.as_str()) {
            writeln!(page, "\n### {name}\n\n{}\n", line(schema)).unwrap();
            let otherwise = if name == "Problem" { " (optional)" } else { " (or `null`)" };
            fields(&mut page, schema, otherwise);
        }
    }
    page.push_str(
        "\n## Errors\n\nA request that fails is answered with a [Problem](#problem), as \
         `application/problem+json`.\nStatus 429 and 503 have the header `retry-after`, in \
         whole seconds.\n\n| `code` | status |\n|---|---|\n",
    );
    let codes = (0..=100).filter_map(|code| ErrorCode::try_from(code).ok());
    for code in codes.filter(|code| *code != ErrorCode::Unspecified) {
        writeln!(page, "| `{}` | {} |", code.name(), status(code)).unwrap();
    }
    for refused in Refused::ALL {
        let (status, code, _) = refused.row();
        writeln!(page, "| `{code}` | {status} |").unwrap();
    }
    page
}

#[test]
fn the_reference_page_says_what_the_document_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/http.md");
    let page = page();
    if std::env::var_os("PALISADE_BLESS").is_some() {
        std::fs::write(&path, &page).expect("write the page");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == page, "docs/reference/http.md is out of date: write it anew (see above)");
}
