//! Frames of clients, gateways and nodes.

use ::wire::internal::v1 as internal;
use ::wire::v1::{Error, ErrorCode, StreamRequest, StreamResponse, operation_result};
use locks::Command;
use prost::Message;
use routing::{MapVersion, NodeId, Replicas, RouteTable, SLOTS, ShardId, ShardMap, Slot};
use service::{Caller, Callers, Refused, Request};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::LazyLock;

static MAP: LazyLock<ShardMap> = LazyLock::new(|| {
    let replicas =
        Replicas { nodes: vec![NodeId(1), NodeId(2), NodeId(3)], preferred_leader: NodeId(1) };
    ShardMap::even(
        MapVersion(1),
        BTreeMap::from([(ShardId(0), replicas.clone()), (ShardId(1), replicas)]),
    )
});

/// A frame from clients to a gateway. A valid frame stays valid with its defaults filled in.
pub(super) fn operation_frame(bytes: &[u8]) -> bool {
    let Some(frame) = decode::<StreamRequest>(bytes) else { return false };
    let mut taken = false;
    for mut operation in frame.operations {
        let valid = ::wire::check_operation(&operation).is_ok();
        if let Some(op) = &mut operation.op {
            ::wire::fill_defaults(op, || [7; 16]);
        }
        assert!(
            !valid || ::wire::check_operation(&operation).is_ok(),
            "valid only without its defaults: {operation:?}"
        );
        taken |= valid;
    }
    taken
}

/// A frame from gateways to a node. If it passes the checks, it must make a command that every
/// replica can read from its log.
pub(super) fn operate_request(bytes: &[u8]) -> bool {
    let Some(frame) = decode::<internal::OperateRequest>(bytes) else { return false };
    let (mut taken, mut callers) = (false, Callers::default());
    for mut operation in frame.operations {
        let valid = ::wire::check_routed(&operation).is_ok();
        if let Some(op) = &mut operation.op {
            ::wire::fill_routed_defaults(op);
        }
        assert!(
            !valid || ::wire::check_routed(&operation).is_ok(),
            "valid only without its defaults: {operation:?}"
        );
        let caller = callers.of(&operation);
        match caller.and_then(|caller| command_of(operation, caller)) {
            Ok(Some(command)) => {
                let (caller, decoded) =
                    Command::decode_as(&command).expect("what is proposed can be applied");
                assert!(locks::validate(&decoded).is_ok());
                assert!(locks::validate_principal(caller.principal).is_ok());
                taken = true;
            }
            Ok(None) => taken = true,
            Err(refused) => {
                if let internal::operation_result::Result::Error(error) = *refused {
                    assert_ne!(error.code(), ErrorCode::Unspecified);
                }
            }
        }
    }
    taken
}

/// The command that a node would propose for this operation. `None` for a read.
fn command_of(operation: internal::Operation, caller: &Caller) -> Result<Option<Vec<u8>>, Refused> {
    match service::admit(&MAP, operation, caller, 0)?.request {
        Request::Propose { command, .. } => Ok(Some(command)),
        Request::Read { .. } => Ok(None),
    }
}

/// A frame from nodes to a gateway.
pub(super) fn operate_response(bytes: &[u8]) -> bool {
    decode::<internal::OperateResponse>(bytes).is_some_and(|frame| !frame.results.is_empty())
}

/// What a node or gateway is told of the cluster. If it is accepted, every slot has a way to nodes
/// with addresses, and it is told on as it came.
pub(super) fn route_table(bytes: &[u8]) -> bool {
    let Some(message) = decode::<internal::RouteTable>(bytes) else { return false };
    let Ok(routes) = RouteTable::try_from(&message) else { return false };
    for slot in (0..SLOTS).filter_map(Slot::new) {
        let replicas = routes.map().replicas(routes.map().owner(slot)).expect("an owner");
        let is_known = |node: &NodeId| routes.address(*node).is_some();
        assert!(is_known(&replicas.preferred_leader) && replicas.nodes.iter().all(is_known));
    }
    let told = internal::RouteTable::from(&routes);
    assert_eq!(RouteTable::try_from(&told).as_ref(), Ok(&routes));
    assert_eq!(routes.merged(&routes), None);
    true
}

/// A frame from a gateway to a client, and errors on their way through a status.
pub(super) fn result_frame(bytes: &[u8]) -> bool {
    let Some(frame) = decode::<StreamResponse>(bytes) else { return false };
    for result in &frame.results {
        if let Some(operation_result::Result::Error(error)) = &result.result {
            let (class, retryable) = (error.class(), error.is_retryable());
            let status = tonic::Status::from(error.clone());
            if let Some(back) = Error::from_status(&status) {
                assert_eq!((&back, back.class(), back.is_retryable()), (error, class, retryable));
            } else {
                assert_eq!(
                    error.code(),
                    ErrorCode::Unspecified,
                    "only an error without a code may get lost: {error:?}"
                );
            }
        }
    }
    !frame.results.is_empty()
}

/// Decodes a message, if the bytes are one. It must be the same when it has been encoded and
/// decoded again.
pub(super) fn decode<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let encoded = message.encode_to_vec();
    assert_eq!(encoded.len(), ::wire::encoded_bytes(&message));
    assert_eq!(M::decode(encoded.as_slice()).as_ref(), Ok(&message), "does not come back the same");
    Some(message)
}
