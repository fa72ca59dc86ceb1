//! Generates the gRPC code from `proto/`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .bytes(".palisade.v1.PeerMessage.raft")
        .bytes(".palisade.v1.SnapshotChunk.data")
        .compile_protos(
            &["../../proto/palisade/v1/palisade.proto", "../../proto/palisade/v1/node.proto"],
            &["../../proto"],
        )?;
    println!("cargo:rerun-if-changed=../../proto");
    Ok(())
}
