//! Processor time of this service by thread and role, as the simulation needs it.

use crate::keys::Key;
use serde::Serialize;

macro_rules! costs {
    ($($(#[doc = $doc:literal])* $field:ident = $assumed:literal, $help:literal;)*) => {
        /// Processor time in microseconds: of an operation, of an entry beside its operations, and
        /// of a sync, a message or a wake-up that many entries may share.
        ///
        /// An entry of n operations costs a thread `per_op`·n + `per_entry_root`·√n. The more
        /// operations come together, the less each costs, because it finds in the caches the data
        /// that those before it brought there. The root is not derived: it is the form that fits
        /// the measurements best, with 2 to 700 operations in an entry and with one to eight
        /// shards.
        ///
        /// A thread that is woken is charged for the wake-up however little work it then finds.
        /// System calls and thread switches are most of the cost that does not grow with
        /// operations.
        ///
        /// - Every field is finite and not negative.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct Costs {
            $($(#[doc = $doc])* pub $field: f64,)*
        }

        impl Costs {
            /// Assumptions, for a leader whose shard thread carries 10,000 operations per second.
            pub(crate) const ASSUMED: Costs = Costs { $($field: $assumed,)* };

            pub(crate) const KEYS: &[Key] =
                &[$(Key { name: stringify!($field), flag: "", example: "", help: $help },)*];

            /// Each field with its name.
            pub fn fields(&mut self) -> Vec<(&'static str, &mut f64)> {
                vec![$((stringify!($field), &mut self.$field),)*]
            }
        }
    };
}

costs! {
    /// Leader: receiving operations, sending them to followers, and sending answers.
    leader_network_us_per_op = 10.0, "leader's network, per operation";
    /// Leader: proposing and applying, on the shard's thread.
    leader_shard_us_per_op = 95.0, "leader's shard thread, per operation";
    /// Leader: work of the log writer.
    leader_writer_us_per_op = 2.0, "leader's log writer, per operation";
    /// Follower: work of receiving entries.
    follower_network_us_per_op = 2.0, "follower's network, per operation";
    /// Follower: appending and applying, on the shard's thread.
    follower_shard_us_per_op = 40.0, "follower's shard thread, per operation";
    /// Follower: work of the log writer.
    follower_writer_us_per_op = 2.0, "follower's log writer, per operation";
    /// Any replica: its network, per square root of the operations of an entry.
    network_us_per_entry_root = 0.0, "a replica's network, per entry and root of its operations";
    /// Any replica: each wake-up of a network thread, however much it finds to do.
    network_us_per_wake = 30.0, "a replica's network, per awakening";
    /// Any replica: the shard's thread, per square root of the operations of an entry.
    shard_us_per_entry_root = 0.0, "a shard thread, per entry and root of its operations";
    /// Any replica: each wake-up of a shard thread, however much it finds to do.
    shard_us_per_wake = 20.0, "a shard thread, per awakening";
    /// Any replica: the log writer, per square root of the operations of an entry.
    writer_us_per_entry_root = 0.0, "a log writer, per entry and root of its operations";
    /// Any replica: the log writer, for each batch that it syncs.
    writer_us_per_sync = 50.0, "a log writer, per sync";
    /// Any replica: flushes and compactions, per operation.
    background_us_per_op = 5.0, "flushes and compactions of a replica, per operation";
    /// Gateway: work per operation.
    gateway_us_per_op = 10.0, "gateway, per operation";
    /// Gateway: per square root of the operations that are answered together.
    gateway_us_per_entry_root = 0.0, "gateway, per entry and root of its operations";
    /// Gateway: a message of many operations to a shard, and its answer.
    gateway_us_per_entry = 50.0, "gateway, per entry";
    /// Load generator of `palisade bench`, per operation. It does not count where clients have
    /// machines of their own.
    client_us_per_op = 2.0, "load generator, per operation";
    /// Load generator: per square root of the operations that are answered together.
    client_us_per_entry_root = 0.0, "load generator, per entry and root of its operations";
    /// Load generator: for each entry's worth of answers.
    client_us_per_entry = 30.0, "load generator, per entry";
    /// A node that answers checks, per check.
    check_us_per_op = 10.0, "node that answers checks, per check";
}

impl Costs {
    /// Multiplies the costs of a node's threads by `times`.
    pub(crate) fn node_times(&mut self, times: f64) {
        let nodes = ["leader_", "follower_", "network_", "shard_", "writer_"];
        let fields = self.fields().into_iter();
        fields
            .filter(|(name, _)| nodes.iter().any(|of| name.starts_with(of)))
            .for_each(|(_, cost)| *cost *= times);
    }

    /// A gateway's cost per operation, if an entry has `entry_ops` operations.
    pub fn gateway_us_at(&self, entry_ops: f64) -> f64 {
        self.gateway_us_per_op
            + self.gateway_us_per_entry_root / entry_ops.sqrt()
            + self.gateway_us_per_entry / entry_ops
    }
}
