//! Processor time of this service by thread and role: what the simulation computes with.

use crate::keys::Key;
use serde::Serialize;

macro_rules! costs {
    ($($(#[doc = $doc:literal])* $field:ident = $assumed:literal, $help:literal;)*) => {
        /// Processor time in microseconds: per operation, and per log entry, sync or message of which many operations share
        /// one. Per entry is with five replicas.
        ///
        /// - Every field is finite and not negative.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub struct Costs {
            $($(#[doc = $doc])* pub $field: f64,)*
        }

        impl Costs {
            /// Assumptions, for a leader whose shard thread carries 10,000 operations a second.
            pub(crate) const ASSUMED: Costs = Costs { $($field: $assumed,)* };

            pub(crate) const KEYS: &[Key] =
                &[$(Key { name: stringify!($field), flag: "", example: "", help: $help },)*];

            /// Each field with its name.
            pub(crate) fn fields(&mut self) -> Vec<(&'static str, &mut f64)> {
                vec![$((stringify!($field), &mut self.$field),)*]
            }
        }
    };
}

costs! {
    /// Leader: receiving operations and sending answers.
    leader_network_us_per_op = 10.0, "leader's network, per operation";
    /// Leader: sending an entry to its followers, and what they answer.
    leader_network_us_per_entry = 100.0, "leader's network, per entry";
    /// Leader: proposing and applying, on the thread that runs the shard.
    leader_shard_us_per_op = 95.0, "leader's shard thread, per operation";
    /// Leader: proposing, hearing of acknowledgements, applying.
    leader_shard_us_per_entry = 60.0, "leader's shard thread, per entry";
    /// Leader: the log writer.
    leader_writer_us_per_op = 2.0, "leader's log writer, per operation";
    /// Leader: the log writer, for each batch that it syncs.
    leader_writer_us_per_sync = 50.0, "leader's log writer, per sync";
    /// Follower: receiving entries.
    follower_network_us_per_op = 2.0, "follower's network, per operation";
    /// Follower: receiving an entry and acknowledging it.
    follower_network_us_per_entry = 60.0, "follower's network, per entry";
    /// Follower: appending and applying.
    follower_shard_us_per_op = 40.0, "follower's shard thread, per operation";
    /// Follower: appending, acknowledging, applying.
    follower_shard_us_per_entry = 60.0, "follower's shard thread, per entry";
    /// Follower: the log writer.
    follower_writer_us_per_op = 2.0, "follower's log writer, per operation";
    /// Follower: the log writer, for each batch that it syncs.
    follower_writer_us_per_sync = 50.0, "follower's log writer, per sync";
    /// Any replica: flushes and compactions.
    background_us_per_op = 5.0, "flushes and compactions of a replica, per operation";
    /// Gateway.
    gateway_us_per_op = 10.0, "gateway, per operation";
    /// Gateway: a message of many operations to a shard, and its answer.
    gateway_us_per_entry = 50.0, "gateway, per entry";
    /// The load generator of `palisade bench`; of no account where clients have machines of their own.
    client_us_per_op = 2.0, "load generator, per operation";
    /// The load generator, for each entry's worth of answers.
    client_us_per_entry = 30.0, "load generator, per entry";
    /// A node that answers checks.
    check_us_per_op = 10.0, "node that answers checks, per check";
}
