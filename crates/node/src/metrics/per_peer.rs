//! The metrics of the traffic with each peer.

use super::registrar::Registrar;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use routing::NodeId;

/// Counts of the traffic with one peer.
#[derive(Clone, Debug)]
pub(crate) struct PeerMetrics {
    pub(crate) connected: IntGauge,
    pub(crate) frames_sent: IntCounter,
    pub(crate) messages_sent: IntCounter,
    pub(crate) bytes_sent: IntCounter,
    pub(crate) frames_received: IntCounter,
    pub(crate) messages_received: IntCounter,
    pub(crate) messages_dropped: IntCounter,
}

/// The metrics by peer. Each peer has a child of each, as long as it is one.
#[derive(Debug)]
pub(super) struct ByPeer {
    connected: IntGaugeVec,
    frames: IntCounterVec,
    messages: IntCounterVec,
    bytes: IntCounterVec,
    dropped: IntCounterVec,
}

/// The labels of a direction.
const DIRECTIONS: [&str; 2] = ["sent", "received"];

impl ByPeer {
    pub(super) fn new(r: &Registrar) -> Result<ByPeer, Error> {
        Ok(ByPeer {
            connected: r.gauges(
                "palisade_peer_connected",
                "1: the stream to this peer is up.",
                &["peer"],
            )?,
            frames: r.counters(
                "palisade_peer_frames_total",
                "Frames of Raft messages.",
                &["peer", "direction"],
            )?,
            messages: r.counters(
                "palisade_peer_messages_total",
                "Raft messages.",
                &["peer", "direction"],
            )?,
            bytes: r.counters(
                "palisade_peer_sent_bytes_total",
                "Bytes of frames sent.",
                &["peer"],
            )?,
            dropped: r.counters(
                "palisade_peer_messages_dropped_total",
                "Received, and no room or replica here.",
                &["peer"],
            )?,
        })
    }

    /// The children of a peer, which are made if there are none.
    pub(super) fn of(&self, peer: NodeId) -> PeerMetrics {
        let label = peer.to_string();
        let [frames, messages] = [&self.frames, &self.messages]
            .map(|vec| DIRECTIONS.map(|direction| vec.with_label_values(&[&label, direction])));
        let ([frames_sent, frames_received], [messages_sent, messages_received]) =
            (frames, messages);
        PeerMetrics {
            connected: self.connected.with_label_values(&[&label]),
            frames_sent,
            messages_sent,
            bytes_sent: self.bytes.with_label_values(&[&label]),
            frames_received,
            messages_received,
            messages_dropped: self.dropped.with_label_values(&[&label]),
        }
    }

    /// Shows nothing more of a node that is no peer any more.
    pub(super) fn forget(&self, peer: NodeId) {
        let label = peer.to_string();
        // An error only says that there was no child.
        let _ = self.connected.remove_label_values(&[&label]);
        for vec in [&self.bytes, &self.dropped] {
            let _ = vec.remove_label_values(&[&label]);
        }
        for vec in [&self.frames, &self.messages] {
            for direction in DIRECTIONS {
                let _ = vec.remove_label_values(&[label.as_str(), direction]);
            }
        }
    }
}
