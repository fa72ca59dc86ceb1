//! The bytes of states, deltas, proposals, refusals, reports and previews, and the hash of a state.
//!
//! [`codec`](crate::codec) has the frame and the primitives. Here are the fields of each type of the
//! state, in their order. What was decoded passed [`Topology::check`].

use crate::codec::{DecodeError, Reader, Record, Result, of_frame, record, tagged, to_frame};
use crate::command::Proposal;
use crate::delta::Delta;
use crate::plan::{Preview, Report};
use crate::rebuild::Told;
use crate::refusal::Refusal;
use crate::state::*;
use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};
use routing::{AddressVersion, NodeId, ShardId};

/// The kinds of frames. A kind may be retired but never reused.
mod kind {
    pub(super) const STATE: u8 = 1;
    pub(super) const DELTA: u8 = 2;
    pub(super) const PROPOSAL: u8 = 3;
    pub(super) const REPORT: u8 = 4;
    pub(super) const REFUSAL: u8 = 5;
    pub(super) const PREVIEW: u8 = 6;
    pub(super) const TOLD: u8 = 8;
}

/// The seed of the state hash. Frozen, because replicas of different builds compare hashes.
const SECRETS: RapidSecrets = RapidSecrets::seed_cpp(0x70_61_6c_69_73_61_64_65);

impl Topology {
    /// The bytes of the whole state. Equal states have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::STATE, self)
    }

    /// The state with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong, or the state breaks a rule.
    pub fn decode(bytes: &[u8]) -> Result<Topology> {
        let topology: Topology = of_frame(kind::STATE, bytes)?;
        topology.check().map_err(DecodeError)?;
        Ok(topology)
    }

    /// The hash of the state, by which replicas are compared.
    pub fn state_hash(&self) -> u64 {
        rapidhash_v3_seeded(&self.encode(), &SECRETS)
    }
}

impl Delta {
    /// The bytes of the delta.
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::DELTA, self)
    }

    /// The delta with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Delta> {
        of_frame(kind::DELTA, bytes)
    }
}

impl Proposal {
    /// The bytes of the proposal in the log.
    ///
    /// ```
    /// use palisade_topology::{Command, JobId, Proposal};
    ///
    /// let proposal = Proposal::new(1_700_000_000, Command::Cancel { job: JobId(13) });
    /// assert_eq!(Proposal::decode(&proposal.encode()), Ok(proposal));
    /// assert!(Proposal::decode(b"not a proposal").is_err());
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::PROPOSAL, self)
    }

    /// The proposal with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong. Such an entry must not be applied.
    pub fn decode(bytes: &[u8]) -> Result<Proposal> {
        of_frame(kind::PROPOSAL, bytes)
    }
}

impl Refusal {
    /// The bytes of the refusal.
    ///
    /// ```
    /// use palisade_topology::{JobId, Refusal};
    ///
    /// let refusal = Refusal::Busy(JobId(13));
    /// assert_eq!(Refusal::decode(&refusal.encode()), Ok(refusal));
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::REFUSAL, self)
    }

    /// The refusal with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Refusal> {
        of_frame(kind::REFUSAL, bytes)
    }
}

impl Report {
    /// The bytes of the report. When it was heard is not among them, because the receiver tells that.
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::REPORT, self)
    }

    /// The report with these bytes, which was heard at `heard_ms`.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub fn decode(bytes: &[u8], heard_ms: u64) -> Result<Report> {
        let report: Report = of_frame(kind::REPORT, bytes)?;
        Ok(Report { heard_ms, ..report })
    }
}

impl Told {
    /// The bytes of what a node tells.
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::TOLD, self)
    }

    /// What a node tells with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong, or the kept topology breaks a rule.
    pub fn decode(bytes: &[u8]) -> Result<Told> {
        let told: Told = of_frame(kind::TOLD, bytes)?;
        told.kept.check().map_err(DecodeError)?;
        Ok(told)
    }
}

impl Preview {
    /// The bytes of the preview.
    pub fn encode(&self) -> Vec<u8> {
        to_frame(kind::PREVIEW, self)
    }

    /// The preview with these bytes.
    ///
    /// # Errors
    /// If any byte is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Preview> {
        of_frame(kind::PREVIEW, bytes)
    }
}

record!(NodeId { 0 });
record!(ShardId { 0 });
record!(AddressVersion { incarnation, starts });
record!(Version { 0 });
record!(Birth { 0 });
record!(Life { node, birth });
record!(JobId { 0 });
record!(RequestId { 0 });
record!(StoreId { 0 });
record!(Levels { min, max });
record!(Topology { version, cluster, slots, nodes, shards, jobs });
record!(Settings { repair_after_s, snapshot_bytes_per_s, paused });
record!(Node { address, zone, state, start, store, levels, binary, last_birth, directory_since });
record!(Shard { founders, wanted, is, leaving, preference });
record!(Wanted { version, members });
record!(Members { conf_index, taken, voters, learners });
record!(Preference { node, from, at_s });
record!(Job { request, kind, state, progress, why });
record!(Progress { done, total });

tagged!(NodeState { 1 => Serving {}, 2 => Draining {}, 3 => Leaving {}, 4 => Removed {} });
tagged!(JobState { 1 => Running {}, 2 => Done {}, 3 => Cancelled {} });
tagged!(Balance { 1 => Members {}, 2 => Leaders {} });
tagged!(JobKind {
    1 => Drain { node },
    2 => Undrain { node },
    3 => ReplaceNode { old, new },
    4 => RemoveNode { node },
    5 => Replicas { count, shard },
    6 => Rebalance { what },
});

/// What a topology has that was built again follows the other fields from generation 2 on. So the
/// bytes of a first generation are those of builds that know no other.
impl Record for Cluster {
    fn put(&self, into: &mut Vec<u8>) {
        self.id.put(into);
        self.generation.put(into);
        self.level.put(into);
        self.settings.put(into);
        self.last_job.put(into);
        if self.generation > 1 {
            self.begun.put(into);
            self.former_ids.put(into);
        }
    }

    fn take(from: &mut Reader<'_>) -> Result<Cluster> {
        let mut cluster = Cluster {
            id: Record::take(from)?,
            generation: Record::take(from)?,
            level: Record::take(from)?,
            settings: Record::take(from)?,
            last_job: Record::take(from)?,
            ..Cluster::default()
        };
        if cluster.generation > 1 {
            cluster.begun = Record::take(from)?;
            cluster.former_ids = Record::take(from)?;
        }
        Ok(cluster)
    }
}
