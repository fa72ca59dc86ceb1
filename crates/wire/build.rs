//! Generates the gRPC code from `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .bytes(".palisade.internal.v1.PeerMessage.raft")
        .bytes(".palisade.internal.v1.InstallSnapshotRequest.data")
        .compile_protos(
            &[
                "../../proto/palisade/v1/palisade.proto",
                "../../proto/palisade/internal/v1/gateway.proto",
                "../../proto/palisade/internal/v1/peer.proto",
            ],
            &["../../proto"],
        )?;
    println!("cargo:rerun-if-changed=../../proto");
    Ok(())
}
