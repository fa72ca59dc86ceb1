//! A client process: its actors use the SDK, and it writes one record file per round.
//!
//! Standard input and output carry one line of JSON per [`Order`] and [`Told`]. The process does
//! not know of faults. It does not notice that it is paused, or that the gateways are hurt.

mod actors;
mod calls;
mod watches;

pub use calls::{Caller, Wish, number_of};

use crate::clock::now_us;
use crate::error::{Because, Error};
use crate::names;
use crate::record::Recorder;
use actors::{Actor, Role};
use client::{Client, ClientOptions};
use palisade_sim::checker::WatchRecord;
use palisade_sim::rng::Rng;
use routing::ClusterConfig;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;
use tokio::task::JoinSet;
use watches::Watcher;
use wire::v1::WatchFilter;

/// An order of the conductor to a client process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Puts load on the cluster.
    Begin {
        /// The number of the round, which is part of all names.
        round: u32,
    },
    /// Stops the load, completes the operations under way, and writes the record to a file.
    End {
        /// The file for the record.
        record: PathBuf,
    },
    /// Ends the watches after these entries, and writes their records to a file.
    EndWatches {
        /// The index of an entry of each shard.
        reached: BTreeMap<u32, u64>,
        /// The file for the records.
        record: PathBuf,
    },
}

/// The answer of a client process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// The load runs.
    Begun,
    /// The record is written.
    Ended {
        /// The number of operations in the record.
        operations: usize,
    },
    /// The records of the watches are written.
    WatchesEnded,
}

/// What a client process is started with.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The cluster file: which name lives on which shard
    #[arg(long)]
    pub config: PathBuf,
    /// Gateways, comma-separated
    #[arg(long)]
    pub endpoints: String,
    /// Which of the client processes to be, from 1
    #[arg(long)]
    pub number: u32,
    /// How many actors
    #[arg(long, default_value_t = 16)]
    pub actors: u32,
    /// Decides what the actors do
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// The clients of one process have ids from its number times this.
const IDS_PER_PROCESS: u32 = 1_000;
/// The watches of all names of a round in one process. One more watch is of a single name. A last
/// one begins at the end, and is told what is held and who waits then: an end that the others were
/// not told shows in its state.
const WATCHES_OF_ALL: u32 = 2;
/// The time limit for operations under way at the end of a round. It exceeds the SDK's timeout
/// and the longest wait.
const SEEN_THROUGH_WITHIN: Duration = Duration::from_secs(20);

/// Runs until standard input ends.
///
/// # Errors
/// The input or file that cannot be read, written or understood, for people.
pub async fn run(options: Options) -> Result<(), Error> {
    let config = ClusterConfig::load(&options.config).map_err(Error::other)?.0;
    let (fingerprint, shards) = (config.fingerprint().0, config.shards);
    let map = Arc::new(config.shard_map());
    let recorder = Arc::new(Recorder::default());
    // Several connections are opened, because several applications would have as many.
    let clients: Vec<Client> = (0..4)
        .map(|at| {
            Client::with_options(
                rotated(&options.endpoints, at),
                ClientOptions::new().owner("chaos"),
            )
        })
        .collect();
    let callers: Vec<Caller> = (0..options.actors)
        .map(|actor| {
            let client = clients[actor as usize % clients.len()].clone();
            let id = options.number * IDS_PER_PROCESS + actor;
            Caller::new(client, id, recorder.clone(), map.clone())
        })
        .collect();
    let watcher = |round: u32, at: u32, until| {
        let client = options.number * IDS_PER_PROCESS + options.actors + at;
        let name = (at == WATCHES_OF_ALL).then(|| names::watched(round, options.number as usize));
        let (filter, shards) = match name.clone() {
            Some(name) => {
                let shards = vec![map.route(&name).shard.0];
                (WatchFilter { name, ..Default::default() }, shards)
            }
            None => {
                let prefix = names::all(round);
                (WatchFilter { prefix, ..Default::default() }, (0..shards).collect())
            }
        };
        Watcher {
            clients: clients.clone(),
            fingerprint,
            shards,
            filter,
            rng: Rng::new(options.seed ^ (u64::from(client) << 32) ^ u64::from(round)),
            record: WatchRecord { client, name, notes: Vec::new() },
            until,
        }
    };
    let mut begun = 0;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut over = Arc::new(AtomicBool::new(true));
    let mut actors = JoinSet::new();
    let (mut until, mut watches) = (watch::Sender::new(None), JoinSet::new());
    while let Some(line) = lines.next_line().await.because("cannot read orders")? {
        match serde_json::from_str(&line).because(format!("{line:?} is no order"))? {
            Order::Begin { round } => {
                recorder.begin(round);
                over = Arc::new(AtomicBool::new(false));
                let from_us = now_us();
                for caller in &callers {
                    let role = match caller.id % 8 {
                        0..3 => Role::Locker,
                        3..5 => Role::Sessioner,
                        5 => Role::Guardian,
                        _ => Role::Watcher,
                    };
                    let rng =
                        Rng::new(options.seed ^ (u64::from(caller.id) << 32) ^ u64::from(round));
                    let actor = Actor {
                        caller: caller.clone(),
                        role,
                        rng,
                        from_us,
                        round,
                        over: over.clone(),
                    };
                    actors.spawn(actor.run());
                }
                (begun, until) = (round, watch::Sender::new(None));
                for at in 0..=WATCHES_OF_ALL {
                    watches.spawn(watcher(round, at, until.subscribe()).run());
                }
                tell(&Told::Begun);
            }
            Order::End { record } => {
                over.store(true, Ordering::Relaxed);
                let seen_through = async { while actors.join_next().await.is_some() {} };
                if tokio::time::timeout(SEEN_THROUGH_WITHIN, seen_through).await.is_err() {
                    actors.shutdown().await;
                }
                let taken = recorder.take();
                taken.save(&record).because(record.display())?;
                tell(&Told::Ended { operations: taken.operations.len() });
            }
            Order::EndWatches { reached, record } => {
                let (_fixed, fixed) = watch::channel(Some(reached.clone()));
                let fresh = watcher(begun, WATCHES_OF_ALL + 1, fixed).run().await;
                // The others must come to the state that it was told, so that they are compared.
                let reached = reached.into_iter().map(|(shard, index)| {
                    let place = fresh.last_place(shard);
                    (shard, place.map_or(index, |place| index.max(place.0.saturating_sub(1))))
                });
                until.send_replace(Some(reached.collect()));
                let mut records = vec![fresh];
                while let Some(watched) = watches.join_next().await {
                    records.push(watched.because("a watch")?);
                }
                let text = serde_json::to_vec(&records).because("the records of watches")?;
                std::fs::write(&record, text).because(record.display())?;
                tell(&Told::WatchesEnded);
            }
        }
    }
    Ok(())
}

fn tell(told: &Told) {
    println!("{}", serde_json::to_string(told).expect("what is told is plain"));
}

/// The same gateways in a rotated order.
fn rotated(endpoints: &str, by: usize) -> Vec<String> {
    let mut endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
    let by = by % endpoints.len();
    endpoints.rotate_left(by);
    endpoints
}
