//! The verbs that make certificates.

use super::address_host;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Certificate verbs.
#[derive(Debug, Subcommand)]
pub enum Cert {
    /// Make the two certificate authorities of a cluster: one for the inside, one for clients
    Ca(CertCa),
    /// Make keys and certificates for nodes, gateways, clients and servers
    Issue(CertIssue),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Writes inside-ca.pem and inside-ca.key, which make the certificates of nodes and gateways, and \
clients-ca.pem and clients-ca.key, which make those of clients and those that gateways show to \
clients. The .pem files are public. A .key file is enough to make certificates: keep both keys off \
the machines of the cluster.")]
pub struct CertCa {
    /// The directory of the files. It is made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The number of days until the authorities expire: 1 to 7300
    #[arg(long, default_value_t = 3_650, value_parser = clap::value_parser!(u32).range(1..=7_300))]
    pub days: u32,
    /// Replace authorities that are there. Certificates of the old ones are refused then
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
With --config alone, everything that the cluster file describes is made: node-N for each node; for \
each gateway, gateway-NAME for the inside, and gateway-NAME-server for the clients that connect to \
its address. A single gateway has the name `gateway`, and several have the names 1, 2, …: start \
them with --name. Files that are there are kept, so the same command serves a cluster that grew.

An identity with :// becomes a URI in the certificate, and any other one its common name. \
`palisade policy check` shows what an identity may do.")]
#[command(group = clap::ArgGroup::new("subject").args(["node", "gateway", "client", "server"]))]
pub struct CertIssue {
    /// The directory with the authorities (see `palisade cert ca`), for the new files too
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// The path of the cluster file. Certificates of nodes and gateways name its cluster
    #[arg(long, value_name = "FILE", required_unless_present = "subject")]
    pub config: Option<PathBuf>,
    /// A node of the cluster file
    #[arg(long, value_name = "N", requires = "config")]
    pub node: Option<u64>,
    /// A gateway, by the name that it is started with
    #[arg(long, value_name = "NAME", requires = "config")]
    pub gateway: Option<String>,
    /// A client, by the identity that the policy knows: 1 to 256 bytes
    #[arg(long, value_name = "IDENTITY")]
    pub client: Option<String>,
    /// A server for clients, by the host names and IP addresses that they dial, separated by commas
    #[arg(long, value_name = "HOST,…", value_delimiter = ',', value_parser = address_host)]
    pub server: Vec<String>,
    /// The number of days until the certificates expire: 1 to 3650
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub days: u32,
    /// Replace files that are there
    #[arg(long)]
    pub force: bool,
}
