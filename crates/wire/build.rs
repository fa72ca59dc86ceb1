//! Generates the gRPC code from `proto/`.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=../../proto");
    let includes = &["../../proto"];
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    // The internal package goes first, because it writes a file without code for the public package
    // that it imports.
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("palisade.internal.v1.binpb"))
        .extern_path(".palisade.v1", "crate::v1")
        // The largest answer by far, and a rare one: each result would have its size.
        .boxed(".palisade.internal.v1.OperationResult.result.status")
        .bytes(".palisade.internal.v1.PeerMessage.raft")
        .bytes(".palisade.internal.v1.InstallSnapshotRequest.data")
        .compile_protos(
            &[
                "../../proto/palisade/internal/v1/frames.proto",
                "../../proto/palisade/internal/v1/gateway.proto",
                "../../proto/palisade/internal/v1/peer.proto",
                "../../proto/palisade/internal/v1/routes.proto",
                "../../proto/palisade/internal/v1/topology.proto",
            ],
            includes,
        )?;
    // Reflection shows the public package only, so these descriptors hold no internal message.
    tonic_prost_build::configure()
        .file_descriptor_set_path(out.join("palisade.v1.binpb"))
        .compile_protos(
            &["../../proto/palisade/v1/palisade.proto", "../../proto/palisade/v1/cluster.proto"],
            includes,
        )?;
    Ok(())
}
