//! The name of a process of a cluster.

use std::fmt;

/// A process of a cluster.
///
/// ```
/// use palisade_local_cluster::Member;
/// assert_eq!(Member::Node(3).to_string(), "node-3");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Member {
    /// A node, by its id in the cluster file.
    Node(u64),
    /// A gateway, by its place in the cluster file, from 1.
    Gateway(u64),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Node(id) => write!(f, "node-{id}"),
            Member::Gateway(number) => write!(f, "gateway-{number}"),
        }
    }
}
