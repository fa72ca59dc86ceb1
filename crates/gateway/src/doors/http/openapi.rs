//! The OpenAPI document of the door for HTTP, made from the table of routes and the types of the
//! requests and answers.

use super::permissions::Permissions;
use super::problem::{PROBLEM, Problem};
use super::watch::{LAST_EVENT_ID, Watch};
use super::{changes, plan, requests};
use crate::permissions::{Method, ROUTES, TERRAFORM};
use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use wire::OperationKind;
use wire::json as answers;

/// An idempotency key, which may stand in quotes.
const KEY: &str = "^\"?([0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})\"?$";

/// The document as an answer.
pub(super) fn served() -> Response {
    static BYTES: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    ([(CONTENT_TYPE, "application/json")], BYTES.clone()).into_response()
}

/// The document of all routes.
pub(super) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12();
    let mut schemas = settings
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator();
    let mut paths = Map::new();
    for (verb, path, of) in ROUTES {
        let mut described = match *path {
            TERRAFORM => for_terraform(&mut schemas, verb),
            path => described(&mut schemas, verb, path, *of),
        };
        if path.contains("{id}") {
            let (of, schema) = match path.starts_with("/v1/cluster/") {
                true => ("The number of the job.", json!({ "type": "integer", "minimum": 1 })),
                false => {
                    let schema = json!({ "type": "string", "minLength": 1, "maxLength": 64 });
                    ("The id of the session.", schema)
                }
            };
            let id = json!({ "name": "id", "in": "path", "required": true,
                "description": of, "schema": schema });
            listed(&mut described["parameters"]).push(id);
        }
        let (path, key) = in_document(verb, path);
        paths.entry(path).or_insert_with(|| json!({}))[key] = described;
    }
    let problem = schemas.subschema_for::<Problem>();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Palisade",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Locks with leases and fencing tokens.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "security": [{}, { "bearer": [] }],
        "components": {
            "schemas": without_links(schemas.take_definitions(true).into()),
            "responses": { "Problem": {
                "description": "The request failed. `code` says why.",
                "content": { PROBLEM: { "schema": problem } },
            } },
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// The path of a route in the document, and its key there. OpenAPI 3.1 knows no other methods than
/// those of RFC 9110. A key that begins with `x-` is an extension.
fn in_document(verb: &str, path: &str) -> (String, String) {
    let key = verb.to_lowercase();
    let key = if path == TERRAFORM { format!("x-{key}") } else { key };
    (path.replace("{*", "{"), key)
}

/// One route of locks for Terraform.
fn for_terraform(schemas: &mut SchemaGenerator, verb: &str) -> Value {
    let mut route = match verb {
        "LOCK" => {
            let summary = "Takes a lock for Terraform. The body is the document that Terraform \
                sends. Status 423 answers the document of the holder.";
            queried::<requests::Terraform, answers::Grant>(schemas, "terraform_lock", summary)
        }
        _ => {
            let summary = "Releases the lock with the ID of the body, which is as that of LOCK.";
            queried::<requests::Terraform, answers::Released>(schemas, "terraform_unlock", summary)
        }
    };
    let name = json!({ "name": "name", "in": "path", "required": true,
        "description": "The name of the lock: the rest of the path, which may hold `/`.",
        "schema": { "type": "string" } });
    listed(&mut route["parameters"]).push(name);
    route
}

/// One route, without the parameters of its path.
fn described(schemas: &mut SchemaGenerator, verb: &str, path: &str, of: Method) -> Value {
    use requests::*;
    let kind = match of {
        Method::Operation(kind) => kind,
        Method::Watch => return watched(schemas),
        Method::Cluster(_) => return of_topology(schemas, verb, path),
        Method::Anyone | Method::Known => return of_console(schemas, verb, path),
        _ => return open(schemas, path),
    };
    let name = kind.as_str();
    match kind {
        OperationKind::Acquire => {
            let mut route = posted::<Acquire, answers::Grant>(schemas, name, "Takes a lock.");
            let promise = "for this acquire. A retry with the same key leads to no second grant.";
            keyed(&mut route, promise);
            route
        }
        OperationKind::Renew => {
            posted::<Renew, answers::Renewed>(schemas, name, "Begins the lease of a lock anew.")
        }
        OperationKind::Release => {
            posted::<Release, answers::Released>(schemas, name, "Lets a lock go.")
        }
        OperationKind::Break => {
            posted::<Break, answers::Tenure>(schemas, name, "Ends what another holds.")
        }
        OperationKind::Check => {
            queried::<Check, answers::Check>(schemas, name, "Shows who holds a lock.")
        }
        OperationKind::History => {
            queried::<History, answers::History>(schemas, name, "Shows who held a lock.")
        }
        OperationKind::List => {
            queried::<List, answers::Locks>(schemas, name, "Shows which locks are held.")
        }
        OperationKind::OpenSession => {
            posted::<OpenSession, answers::SessionOpened>(schemas, name, "Makes a session.")
        }
        OperationKind::Heartbeat => {
            posted::<Heartbeat, answers::SessionRenewed>(schemas, name, "Keeps a session.")
        }
        OperationKind::CloseSession => {
            let summary = "Ends a session, with all that it holds on the shards.";
            queried::<CloseSession, answers::SessionClosed>(schemas, name, summary)
        }
        OperationKind::ClusterStatus | OperationKind::CancelWait | OperationKind::ShardStatus => {
            let answer = schemas.subschema_for::<answers::ClusterStatus>();
            route(name, "Shows the state of the cluster.", answer.as_value())
        }
    }
}

/// Adds an idempotency key to a route.
fn keyed(route: &mut Value, promise: &str) {
    let key = json!({ "name": requests::IDEMPOTENCY_KEY, "in": "header",
        "description": format!("A random UUID, or 32 random digits of hex, {promise}"),
        "schema": { "type": "string", "pattern": KEY } });
    listed(&mut route["parameters"]).push(key);
}

/// One route of the topology.
fn of_topology(schemas: &mut SchemaGenerator, verb: &str, path: &str) -> Value {
    match (verb, path) {
        ("GET", "/v1/cluster/topology") => {
            let answer = schemas.subschema_for::<answers::Topology>();
            let summary = "Shows nodes, the members that shards should have and have, and jobs.";
            route("topology", summary, answer.as_value())
        }
        ("GET", _) => {
            let answer = schemas.subschema_for::<answers::Jobs>();
            let summary = "Shows the jobs that run, and the last ones that ended.";
            route("jobs", summary, answer.as_value())
        }
        ("DELETE", _) => {
            let summary = "Ends a job. What it did stays done.";
            queried::<changes::CancelJob, answers::Changed>(schemas, "cancel_job", summary)
        }
        (_, "/v1/cluster/jobs") => {
            let summary = "Starts a job, which the cluster works on by itself.";
            let mut route =
                posted::<changes::StartJob, answers::JobStarted>(schemas, "start_job", summary);
            keyed(&mut route, "for this job. A retry with the same key starts no second one.");
            route
        }
        (_, "/v1/cluster/settings") => {
            let summary = "Changes one setting of the cluster.";
            posted::<changes::ChangeSetting, answers::Changed>(schemas, "change_setting", summary)
        }
        _ => {
            let summary = "Shows what one change would lead to. Nothing is changed.";
            posted::<changes::PlanChange, answers::ChangePlan>(schemas, "plan_change", summary)
        }
    }
}

/// One route that all clients may ask for.
fn open(schemas: &mut SchemaGenerator, path: &str) -> Value {
    match path {
        "/livez" => {
            let answer = schemas.subschema_for::<answers::Liveness>();
            route("livez", "Says whether the gateway runs.", answer.as_value())
        }
        "/readyz" => {
            let summary = "Says whether the gateway can serve, with status 503 if not.";
            let answer = schemas.subschema_for::<answers::Readiness>();
            let mut route = route("readyz", summary, answer.as_value());
            route["responses"]["503"] = json!({
                "description": "Something is missing.",
                "content": { "application/json": { "schema": answer } },
            });
            let shards = json!({ "name": "shards", "in": "query", "required": false,
                "description": "The least number of shards with a leader. Default: all shards.",
                "schema": { "type": "integer", "minimum": 1 } });
            listed(&mut route["parameters"]).push(shards);
            route
        }
        _ => route("openapi", "Shows this document.", &json!({ "type": "object" })),
    }
}

/// One route that tells nothing of locks.
fn of_console(schemas: &mut SchemaGenerator, verb: &str, path: &str) -> Value {
    match (verb, path) {
        ("POST", _) => {
            let summary = "Plans the capacity for a workload.";
            posted::<plan::Plan, plan::Planned>(schemas, "plan", summary)
        }
        (_, "/v1/plan") => {
            let answer = schemas.subschema_for::<plan::WorkloadFields>();
            route("plan_fields", "Shows the fields of a workload.", answer.as_value())
        }
        _ => {
            let answer = schemas.subschema_for::<Permissions>();
            let summary = "Shows the identity of the client, and what it may do.";
            route("permissions", summary, answer.as_value())
        }
    }
}

/// The route with an answer that does not end.
fn watched(schemas: &mut SchemaGenerator) -> Value {
    let summary = "Tells the present state of locks, and then each change, as server-sent events. \
        The data of `state` is a WatchState, and that of `granted`, `queued`, `released`, `expired`, \
        `broken` and `cancelled` an Event. `resync` says that events of its shard were lost, and \
        `ended` with a Problem why the gateway ends the stream.";
    let mut route = queried::<Watch, answers::Event>(schemas, "watch", summary);
    schemas.subschema_for::<answers::WatchState>();
    let last = json!({ "name": LAST_EVENT_ID.as_str(), "in": "header",
        "description": "The last `id` of an earlier watch with the same filter, to go on after it.",
        "schema": { "type": "string" } });
    listed(&mut route["parameters"]).push(last);
    route["responses"]["200"] = json!({
        "description": "It is told until the client or the gateway ends it.",
        // OpenAPI 3.1 cannot describe one event of a stream, so there is no schema.
        "content": { "text/event-stream": {} },
    });
    route
}

/// A route with a body.
fn posted<Q: JsonSchema, A: JsonSchema>(
    schemas: &mut SchemaGenerator,
    name: &str,
    summary: &str,
) -> Value {
    let (request, answer) = (schemas.subschema_for::<Q>(), schemas.subschema_for::<A>());
    let mut route = route(name, summary, answer.as_value());
    let content = json!({ "application/json": { "schema": request } });
    route["requestBody"] = json!({ "required": true, "content": content });
    route
}

/// A route with a query.
fn queried<Q: JsonSchema, A: JsonSchema>(
    schemas: &mut SchemaGenerator,
    name: &str,
    summary: &str,
) -> Value {
    let (query, answer) = (Q::json_schema(schemas), schemas.subschema_for::<A>());
    let mut route = route(name, summary, answer.as_value());
    let required = query.get("required").and_then(Value::as_array);
    let is_required = |name: &str| required.is_some_and(|all| all.iter().any(|one| one == name));
    for (name, schema) in query.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let parameter = json!({ "name": name, "in": "query", "required": is_required(name),
            "description": schema.get("description"), "schema": schema });
        listed(&mut route["parameters"]).push(parameter);
    }
    route
}

fn route(name: &str, summary: &str, answer: &Value) -> Value {
    json!({
        "operationId": name,
        "summary": summary,
        "parameters": [],
        "responses": {
            "200": {
                "description": "It was done.",
                "content": { "application/json": { "schema": answer } },
            },
            "default": { "$ref": "#/components/responses/Problem" },
        },
    })
}

fn listed(list: &mut Value) -> &mut Vec<Value> {
    list.as_array_mut().expect("each route has a list of parameters")
}

/// Takes the square brackets of links to Rust's items out of descriptions.
fn without_links(mut value: Value) -> Value {
    match &mut value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                *field = match field.take() {
                    Value::String(text) if name == "description" => {
                        text.replace("[`", "`").replace("`]", "`").into()
                    }
                    field => without_links(field),
                };
            }
        }
        Value::Array(values) => {
            values.iter_mut().for_each(|one| *one = without_links(one.take()));
        }
        _ => {}
    }
    value
}

#[cfg(test)]
mod tests;
