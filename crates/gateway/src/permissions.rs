//! The permission that each method, each route and each operation needs: one table.
//!
//! A method that is not in the table is not served. A test walks the descriptors of both protocols
//! and fails for any method, or operation of a stream, without a row. The routes of HTTP are made
//! from their rows. A route needs the same permission as the method of gRPC with the same effect.

use access::Verb;
use wire::OperationKind;

/// The kind of a method, for the question which clients may call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// All clients may call it.
    Open,
    /// All clients may call it, and it answers by the identity that they prove.
    Anyone,
    /// Every identity may call it.
    Known,
    /// One operation. It needs the permission that [`need`] gives for its kind.
    Operation(OperationKind),
    /// A stream of operations, each with its own need. Identities that may do nothing get none.
    Stream,
    /// A watch. It needs the permission for its filter.
    Watch,
    /// A call about the cluster as a whole. It needs this verb.
    Cluster(Verb),
    /// Between processes of the cluster. A gateway never serves it.
    Inside,
}

/// The permission that an operation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// The verb on the operation's name.
    Name(Verb),
    /// The verb on all names that begin with the operation's prefix.
    Prefix(Verb),
    /// The verb on anything: the operation names no lock.
    Anything(Verb),
}

/// All methods.
pub(crate) const METHODS: &[(&str, Method)] = &[
    ("/palisade.v1.LockService/Acquire", Method::Operation(OperationKind::Acquire)),
    ("/palisade.v1.LockService/Renew", Method::Operation(OperationKind::Renew)),
    ("/palisade.v1.LockService/Release", Method::Operation(OperationKind::Release)),
    ("/palisade.v1.LockService/Check", Method::Operation(OperationKind::Check)),
    ("/palisade.v1.LockService/OpenSession", Method::Operation(OperationKind::OpenSession)),
    ("/palisade.v1.LockService/Heartbeat", Method::Operation(OperationKind::Heartbeat)),
    ("/palisade.v1.LockService/CloseSession", Method::Operation(OperationKind::CloseSession)),
    ("/palisade.v1.LockService/CancelWait", Method::Operation(OperationKind::CancelWait)),
    ("/palisade.v1.LockService/BreakLock", Method::Operation(OperationKind::Break)),
    ("/palisade.v1.LockService/History", Method::Operation(OperationKind::History)),
    ("/palisade.v1.LockService/List", Method::Operation(OperationKind::List)),
    ("/palisade.v1.LockService/ClusterStatus", Method::Operation(OperationKind::ClusterStatus)),
    ("/palisade.v1.LockService/Stream", Method::Stream),
    ("/palisade.v1.LockService/Watch", Method::Watch),
    ("/palisade.v1.ClusterService/GetTopology", Method::Cluster(Verb::Observe)),
    ("/palisade.v1.ClusterService/StartJob", Method::Cluster(Verb::Operate)),
    ("/palisade.v1.ClusterService/CancelJob", Method::Cluster(Verb::Operate)),
    ("/palisade.v1.ClusterService/ActivateLevel", Method::Cluster(Verb::Operate)),
    ("/palisade.v1.ClusterService/RebuildTopology", Method::Cluster(Verb::Operate)),
    ("/palisade.v1.ClusterService/ChangeSetting", Method::Cluster(Verb::Operate)),
    ("/palisade.v1.ClusterService/PlanChange", Method::Cluster(Verb::Observe)),
    ("/grpc.health.v1.Health/Check", Method::Open),
    ("/grpc.health.v1.Health/Watch", Method::Open),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Method::Known),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Method::Known),
    ("/palisade.internal.v1.ShardService/Operate", Method::Inside),
    ("/palisade.internal.v1.ShardService/Cluster", Method::Inside),
    ("/palisade.internal.v1.ShardService/Routes", Method::Inside),
    ("/palisade.internal.v1.ShardService/Watch", Method::Inside),
    ("/palisade.internal.v1.TopologyService/Watch", Method::Inside),
    ("/palisade.internal.v1.TopologyService/Report", Method::Inside),
    ("/palisade.internal.v1.TopologyService/Propose", Method::Inside),
    ("/palisade.internal.v1.TopologyService/Tell", Method::Inside),
    ("/palisade.internal.v1.TopologyService/Refound", Method::Inside),
    ("/palisade.internal.v1.TopologyService/Preview", Method::Inside),
    ("/palisade.internal.v1.PeerService/Greet", Method::Inside),
    ("/palisade.internal.v1.PeerService/Deliver", Method::Inside),
    ("/palisade.internal.v1.PeerService/InstallSnapshot", Method::Inside),
];

/// The path of locks for Terraform. The name of the lock is the rest of it.
pub(crate) const TERRAFORM: &str = "/v1/terraform/{*name}";

/// All routes of the door for HTTP: the method and the path of a request, and the kind of method.
/// The door is made from this table, so that there is no route without a row.
pub(crate) const ROUTES: &[(&str, &str, Method)] = &[
    ("POST", "/v1/acquire", Method::Operation(OperationKind::Acquire)),
    ("POST", "/v1/renew", Method::Operation(OperationKind::Renew)),
    ("POST", "/v1/release", Method::Operation(OperationKind::Release)),
    ("POST", "/v1/break", Method::Operation(OperationKind::Break)),
    ("GET", "/v1/check", Method::Operation(OperationKind::Check)),
    ("GET", "/v1/history", Method::Operation(OperationKind::History)),
    ("GET", "/v1/locks", Method::Operation(OperationKind::List)),
    ("POST", "/v1/sessions", Method::Operation(OperationKind::OpenSession)),
    ("POST", "/v1/sessions/{id}/heartbeat", Method::Operation(OperationKind::Heartbeat)),
    ("DELETE", "/v1/sessions/{id}", Method::Operation(OperationKind::CloseSession)),
    ("GET", "/v1/cluster", Method::Operation(OperationKind::ClusterStatus)),
    ("GET", "/v1/cluster/topology", Method::Cluster(Verb::Observe)),
    ("GET", "/v1/cluster/jobs", Method::Cluster(Verb::Observe)),
    ("POST", "/v1/cluster/jobs", Method::Cluster(Verb::Operate)),
    ("DELETE", "/v1/cluster/jobs/{id}", Method::Cluster(Verb::Operate)),
    ("POST", "/v1/cluster/settings", Method::Cluster(Verb::Operate)),
    ("POST", "/v1/cluster/plan", Method::Cluster(Verb::Observe)),
    ("GET", "/v1/watch", Method::Watch),
    ("LOCK", TERRAFORM, Method::Operation(OperationKind::Acquire)),
    ("UNLOCK", TERRAFORM, Method::Operation(OperationKind::Release)),
    ("GET", "/v1/permissions", Method::Anyone),
    ("GET", "/v1/plan", Method::Known),
    ("POST", "/v1/plan", Method::Known),
    ("GET", "/openapi.json", Method::Open),
    ("GET", "/livez", Method::Open),
    ("GET", "/readyz", Method::Open),
];

/// The row of a method, by its path. `None` if it is in no row, so that nothing may call it.
pub(crate) fn method(path: &str) -> Option<Method> {
    METHODS.iter().find(|(known, _)| *known == path).map(|(_, method)| *method)
}

/// The permission that an operation needs, as a call or in a stream. None needs [`Verb::Watch`],
/// which is for watches, or [`Verb::Operate`], which is for changes of the cluster.
///
/// An operation that ends something needs [`Verb::Hold`], too. A lock from the time without
/// identities has no owner. So the lock table lets every identity with its token release it, and
/// tokens are easy to guess.
pub(crate) const fn need(kind: OperationKind) -> Need {
    match kind {
        OperationKind::Acquire
        | OperationKind::Renew
        | OperationKind::Release
        | OperationKind::CancelWait => Need::Name(Verb::Hold),
        OperationKind::Check | OperationKind::History => Need::Name(Verb::Read),
        OperationKind::Break => Need::Name(Verb::Break),
        OperationKind::List => Need::Prefix(Verb::Read),
        OperationKind::OpenSession | OperationKind::Heartbeat | OperationKind::CloseSession => {
            Need::Anything(Verb::Hold)
        }
        OperationKind::ClusterStatus | OperationKind::ShardStatus => Need::Anything(Verb::Observe),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;
    use prost_types::{FileDescriptorProto, FileDescriptorSet};
    use std::collections::{BTreeMap, BTreeSet};

    fn files(encoded: &[u8]) -> Vec<FileDescriptorProto> {
        FileDescriptorSet::decode(encoded).unwrap().file
    }

    /// Each method of these files: its path, and the type of its request.
    fn methods(files: &[FileDescriptorProto]) -> BTreeMap<String, String> {
        let of_file = |file: &FileDescriptorProto| {
            let package = file.package().to_owned();
            let services = file.service.clone().into_iter();
            services.flat_map(move |service| {
                let of = format!("/{package}.{}", service.name());
                let path = move |method: &prost_types::MethodDescriptorProto| {
                    (format!("{of}/{}", method.name()), method.input_type().to_owned())
                };
                service.method.iter().map(path).collect::<Vec<_>>()
            })
        };
        files.iter().flat_map(of_file).collect()
    }

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let served = [
            files(wire::internal::DESCRIPTORS), // with those of the public protocol
            files(wire::DESCRIPTORS),
            files(tonic_health::pb::FILE_DESCRIPTOR_SET),
            files(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET),
            files(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET),
        ]
        .concat();
        let paths: BTreeSet<String> = methods(&served).into_keys().collect();
        assert!(paths.len() > 20, "methods were found");
        let rows: BTreeSet<String> = METHODS.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(paths, rows, "the methods of the descriptors (left) and those of the table");
        assert_eq!(METHODS.len(), rows.len(), "one row for each");
        for (path, row) in METHODS {
            let inside = path.starts_with("/palisade.internal.");
            assert_eq!(*row == Method::Inside, inside, "{path}");
            assert_eq!(method(path), Some(*row));
        }
        assert_eq!(method("/palisade.v1.LockService/New"), None);
    }

    #[test]
    fn a_route_needs_what_its_method_needs() {
        let of_grpc = |row: &Method| METHODS.iter().any(|(_, method)| method == row);
        for (verb, path, row) in ROUTES {
            assert!(matches!(*verb, "GET" | "POST" | "DELETE" | "LOCK" | "UNLOCK"), "{path}");
            assert_eq!(matches!(*verb, "LOCK" | "UNLOCK"), *path == TERRAFORM, "{path}");
            match row {
                Method::Operation(kind) => {
                    assert!(of_grpc(row), "{path}");
                    // Only a read may be asked for again by a browser or a cache.
                    assert_eq!(*verb == "GET", kind.is_read() && *path != "/v1/sessions", "{path}");
                }
                Method::Watch => assert_eq!((*verb, of_grpc(row)), ("GET", true)),
                Method::Open => assert!(["/openapi.json", "/livez", "/readyz"].contains(path)),
                Method::Cluster(_) => {
                    assert!(of_grpc(row) && path.starts_with("/v1/cluster/"), "{path}");
                }
                // Neither tells anything of locks, or of other identities.
                Method::Anyone => assert_eq!(*path, "/v1/permissions"),
                Method::Known => assert_eq!(*path, "/v1/plan"),
                row => panic!("{path} is {row:?}"),
            }
        }
        let operations = METHODS.iter().filter(|(_, row)| matches!(row, Method::Operation(_)));
        for (path, row) in operations {
            let has_route = ROUTES.iter().any(|(_, _, route)| route == row);
            // Over HTTP a wait ends with its request, so there is nothing to cancel.
            assert_eq!(has_route, !path.ends_with("/CancelWait"), "{path}");
        }
    }

    #[test]
    fn every_operation_of_a_stream_is_a_row_of_its_own() {
        let public = files(wire::DESCRIPTORS);
        let by_input: BTreeMap<String, String> =
            methods(&public).into_iter().map(|(path, input)| (input, path)).collect();
        let messages = public.iter().flat_map(|file| &file.message_type);
        let operation = messages.into_iter().find(|message| message.name() == "Operation").unwrap();
        let ops: Vec<_> =
            operation.field.iter().filter(|field| field.oneof_index.is_some()).collect();
        assert!(ops.len() >= 10, "operations were found");
        for field in ops {
            let path = by_input.get(field.type_name());
            let path = path.unwrap_or_else(|| panic!("{} is no call, too", field.name()));
            let row = method(path);
            let Some(Method::Operation(kind)) = row else { panic!("{path}: {row:?}") };
            // In a stream the row is found by the operation's kind, which must be the same.
            let (tag, empty) = (field.number() as u32, 0u8);
            let mut encoded = Vec::new();
            prost::encoding::encode_key(
                tag,
                prost::encoding::WireType::LengthDelimited,
                &mut encoded,
            );
            encoded.push(empty);
            let operation = wire::v1::Operation::decode(&encoded[..]).unwrap();
            assert_eq!(operation.op.map(|op| op.kind()), Some(kind), "{path}");
        }
    }
}
