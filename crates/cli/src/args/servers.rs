//! The verbs that serve: a whole cluster in one process, a node, a gateway. Their help tells operators what to do.

use super::address;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct Dev {
    /// Where clients connect
    #[arg(long, default_value = "127.0.0.1:7400", value_parser = address, value_name = "HOST:PORT")]
    pub listen: String,
    /// Keep the data here [default: a new temporary directory, removed at exit]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Number of shards
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub shards: u32,
    /// Number of nodes; each holds a replica of each shard
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub replicas: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "\
First start. A node whose data directory is new takes part only once every other node that shares a shard with it has confirmed \
that it knows no other directory of it: an empty directory could as well be a lost one, and then the node has forgotten what \
it voted for and acknowledged. It logs whom it waits for. In a cluster that has never run, and some of whose machines start \
later, --new-cluster skips the wait.

Re-seeding. If a node refuses to start because its data is damaged, or its disk is lost, move what is left of its data directory \
away and start the node with --reseed, on an empty directory. It comes back as a new member: it gets the log or a snapshot \
from the leader of each of its shards, and has a vote again once it has caught up. Until then `palisade cluster status` shows \
it as re-seeding, and its shards have one voter less to lose. This needs a majority of each shard's other voters: if more than \
a minority of a shard's replicas lost their data, that shard is not served any more. Afterwards, start it without --reseed. \
Never bring the old directory back: it is refused. While its former process is running the re-seed is refused, unless --force \
is added.

Copies. Peers remember how far a node's directory was, so an older copy of it is refused: it has forgotten what the node \
acknowledged since. A copy that lacks nothing (of a stopped node, moved to another disk) is taken once a majority of the other \
nodes, whose directories are no copies, have confirmed it. If the directories of all nodes are moved or restored together, none \
can tell, and each node waits: where anything was acknowledged since the copies were made, that is lost, and fencing tokens are \
issued again. To go on all the same, stop all nodes, and start each with --accept-copy once. If the copies are of different \
moments, the newest may come to a leader that lacks what it has: its node then stops and says so, and is re-seeded. With --guard-file a node keeps beside its data \
how far it was, in a place that is not copied or restored with it, and refuses an older directory by itself.")]
pub struct Node {
    /// The cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Which of its nodes to be
    #[arg(long, value_name = "N")]
    pub id: u64,
    /// Where to keep the data [default: ./data/node-N]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// This node's data is lost or damaged: start anew with an empty data directory, as a new member of the node's shards
    #[arg(long)]
    pub reseed: bool,
    /// With --reseed: also if this node was just heard of with its former data directory
    #[arg(long, requires = "reseed")]
    pub force: bool,
    /// This cluster has never run: do not wait for all its nodes
    #[arg(long, conflicts_with = "reseed")]
    pub new_cluster: bool,
    /// The data directory is a copy, and is to be used though no node can tell whether anything is missing in it
    #[arg(long, conflicts_with_all = ["reseed", "new_cluster"])]
    pub accept_copy: bool,
    /// Remember in this file, outside of the data directory, how far that was, and refuse an older copy of it
    #[arg(long, value_name = "FILE", env = "PALISADE_GUARD_FILE")]
    pub guard_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Gateway {
    /// The cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Where clients connect [default: the first gateway of the cluster file, or 127.0.0.1:7400]
    #[arg(long, value_parser = address, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Show the public protocol to tools such as grpcurl (gRPC reflection)
    #[arg(long)]
    pub reflection: bool,
}
