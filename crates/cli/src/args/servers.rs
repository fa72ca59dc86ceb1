//! The verbs that serve: a whole cluster in one process, a node, a gateway. Their help tells
//! operators what to do.

use super::address;
use crate::duration;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// The form of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object for each line
    Json,
}

/// How a server logs.
#[derive(Debug, Args)]
pub struct Log {
    /// The form of the log on standard error. PALISADE_LOG says what is in it, such as `info` or
    /// `palisade_node=debug`. SIGUSR1 logs more while the server runs, and SIGUSR2 as at the start
    #[arg(
        long,
        value_enum,
        default_value = "text",
        env = "PALISADE_LOG_FORMAT",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// Where a server sends traces.
#[derive(Debug, Args)]
pub struct Traces {
    /// Send traces of operations to this collector by OTLP over gRPC. An operation is traced if its
    /// caller says so with a W3C traceparent. Default: no traces
    #[arg(long, value_name = "http://HOST:PORT", env = "PALISADE_TRACES")]
    pub traces: Option<String>,
    /// With --traces: also trace this share of the operations that come without a traceparent, from
    /// 0 to 1
    #[arg(long, default_value_t = 0.0, value_parser = share, requires = "traces")]
    #[arg(value_name = "SHARE")]
    pub traces_sample: f64,
}

/// A share: a number from 0 to 1.
fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("write a number from 0 to 1, such as 0.01".to_owned()),
    }
}

#[derive(Debug, Args)]
pub struct Dev {
    /// The address that clients connect to. With port 0, the system chooses the port
    #[arg(long, default_value = "127.0.0.1:7400", value_parser = address, value_name = "HOST:PORT")]
    pub listen: String,
    /// Keep the data in this directory. Default: a temporary directory, removed at exit
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Protect the cluster: TLS on all connections, identities, a policy and audit logs. DATA-DIR/secure
    /// gets what clients need: a certificate for alice, a token for bob, and the policy
    #[arg(long)]
    pub secure: bool,
    /// The number of shards: 1 to 256
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub shards: u32,
    /// The number of nodes: 1 to 9. Each has a replica of each shard
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    pub replicas: u32,
    /// Listen on an address that other machines reach, without TLS and identities. Each start warns
    /// of it, and `palisade cluster status` shows it
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub log: Log,
}

#[derive(Debug, Args)]
#[command(after_help = "\
First start. A node with a new data directory takes part only after every other node that shares a \
shard with it has confirmed that it knows no other directory of this node. The reason is that an \
empty directory can also be a lost one, and then the node has forgotten its votes and \
acknowledgements. The log names the nodes that it waits for. If this cluster has never run, and \
some of its machines start later, --new-cluster skips the wait.

Re-seeding. If a node refuses to start because its data is damaged, or its disk is lost, move the \
rest of its data directory away, and start the node with --reseed on an empty directory. The node \
comes back as a new member. It gets the log or a snapshot from the leader of each of its shards, \
and votes again once it has caught up. Until then, `palisade cluster status` shows it as \
re-seeding, and its shards can lose one voter less. This needs a majority of the other voters of \
each shard. A shard that lost the data of more than a minority of its replicas is not served any \
more. Afterwards, start the node without --reseed. The old directory is refused from then on. \
While the former process of the node runs, the re-seed is refused, unless --force is given.

Copies. Peers remember the progress of a node's directory. So they refuse an older copy, which has \
forgotten what the node acknowledged since. A copy that lacks nothing (of a stopped node, moved to \
another disk) is accepted once a majority of the other nodes have confirmed it, not counting nodes \
on copies. If the directories of all nodes are moved or restored together, no node can tell, and \
each node waits. Operations that were acknowledged after the copies were made are lost then, and \
their fencing tokens are issued again. To go on all the same, stop all nodes, and start each with \
--accept-copy once. If the copies are of different moments, the newest copy may meet a leader that \
lacks some of its entries. Its node stops with a message, and is re-seeded. With --guard-file, a \
node also keeps its progress in a file that is not copied or restored with the data, and refuses \
an older directory by itself.")]
pub struct Node {
    /// The path of the cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The id of this node in the cluster file, or with --join an id that no node ever had. With --join
    /// it can be left out, unless the cluster file has `tls.inside`: the cluster gives the lowest one
    #[arg(long, value_name = "N", required_unless_present = "join")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    pub id: Option<u64>,
    /// The cluster file does not have this node: join the cluster at the first start. Start it so
    /// each time. The nodes of the cluster file are asked, and those at these addresses
    #[arg(long, num_args = 0.., value_delimiter = ',', value_parser = address)]
    #[arg(value_name = "HOST:PORT", requires = "address", conflicts_with = "new_cluster")]
    pub join: Option<Vec<String>>,
    /// With --reseed: ask the node at this address for the present nodes, too. And while a peer is not
    /// connected: ask which node is there. For a cluster file that has none of them
    #[arg(long, value_delimiter = ',', value_parser = address, value_name = "HOST:PORT")]
    pub seed: Vec<String>,
    /// With --join: the address at which other processes reach this node
    #[arg(long, requires = "join", value_parser = address, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// With --join: the failure zone of this node. Default: one of its own
    #[arg(long, requires = "join", value_name = "ZONE")]
    pub zone: Option<String>,
    /// Keep the data in this directory. Default: ./data/node-N. Needed without --id
    #[arg(long, value_name = "DIR", required_unless_present = "id")]
    pub data_dir: Option<PathBuf>,
    /// The data of this node is lost or damaged: start with an empty data directory, as a new
    /// member of its shards
    #[arg(long)]
    pub reseed: bool,
    /// With --reseed: do so even if the node was just running on its former data directory
    #[arg(long, requires = "reseed")]
    pub force: bool,
    /// This cluster has never run: do not wait until all its nodes have answered
    #[arg(long, conflicts_with = "reseed")]
    pub new_cluster: bool,
    /// The data directory is a copy: use it although no node can tell whether entries are missing
    /// in it
    #[arg(long, conflicts_with_all = ["reseed", "new_cluster"])]
    pub accept_copy: bool,
    /// Keep the progress of the data directory in this file, which must be outside of it, and
    /// refuse an older copy of the directory. Default: no file
    #[arg(long, value_name = "FILE", env = "PALISADE_GUARD_FILE")]
    pub guard_file: Option<PathBuf>,
    /// Listen on this address instead of the node's in the cluster file, such as 0.0.0.0:7411. Peers
    /// and gateways dial the one in the file
    #[arg(long, value_parser = address, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Serve /metrics, /livez and /readyz on this address. Default: `metrics` of the node in the
    /// cluster file
    #[arg(long, value_parser = address, value_name = "HOST:PORT")]
    pub listen_metrics: Option<String>,
    /// Listen on an address that other machines reach although the cluster file has no `tls.inside`.
    /// Each start warns of it
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub log: Log,
    #[command(flatten)]
    pub traces: Traces,
}

#[derive(Debug, Args)]
pub struct Gateway {
    /// The path of the cluster file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The address that clients connect to. Default: the first gateway of the cluster file, or
    /// 127.0.0.1:7400
    #[arg(long, value_parser = address, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Serve /metrics, /livez and /readyz on this address. Default: `metrics` of the gateway in the
    /// cluster file that has the address of --listen
    #[arg(long, value_parser = address, value_name = "HOST:PORT")]
    pub listen_metrics: Option<String>,
    /// Ask the node at this address for the present nodes while no node of the cluster file can be
    /// reached. For a cluster file that has none of them
    #[arg(long, value_delimiter = ',', value_parser = address, value_name = "HOST:PORT")]
    pub seed: Vec<String>,
    /// The name of this gateway in its certificate of the inside, and in file names of the cluster
    /// file. Several gateways may share one
    #[arg(long, default_value = "gateway", value_parser = gateway_name, value_name = "NAME")]
    pub name: String,
    /// Describe the public protocol to tools such as grpcurl (gRPC reflection)
    #[arg(long)]
    pub reflection: bool,
    /// Listen on an address that other machines reach although the cluster file has no `tls.clients`
    /// or no `access`. Each start warns of it, and `palisade cluster status` shows it
    #[arg(long)]
    pub insecure: bool,
    /// Answer SERVING to gRPC health checks while this many shards have a leader that can be
    /// reached. By default all must have one, so one shard without a leader takes every gateway out
    /// of a balancer
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub health_shards: Option<u32>,
    /// At SIGTERM, serve on for this time while /readyz says 503, so that a balancer sends clients
    /// elsewhere. A second signal ends the wait
    #[arg(long, value_parser = duration::parse, default_value = "0s", value_name = "DURATION")]
    pub drain: Duration,
    #[command(flatten)]
    pub log: Log,
    #[command(flatten)]
    pub traces: Traces,
}

/// A name that is safe in a path: letters, digits, `-` and `_`.
fn gateway_name(text: &str) -> Result<String, String> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (1..=64).contains(&text.len()) && text.bytes().all(is_fine) {
        true => Ok(text.to_owned()),
        false => Err("write 1 to 64 letters, digits, `-` and `_`".to_owned()),
    }
}
