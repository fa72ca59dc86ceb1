//! A client process: actors that use the SDK, told what to do on standard input, a record per round as a file.
//!
//! Standard input and output carry a line of JSON per [`Order`] and [`Told`]. It knows nothing of faults: it is paused,
//! and the gateways that it speaks to are hurt, without its knowing.

mod actors;
mod calls;

pub use calls::{Caller, Wish, number_of};

use crate::clock::now_us;
use crate::record::Recorder;
use actors::{Actor, Role};
use client::{Client, ClientOptions};
use palisade_sim::rng::Rng;
use routing::ClusterConfig;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

/// What the conductor tells a client process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Order {
    /// Put load on the cluster.
    Begin {
        /// Which: part of all names.
        round: u32,
    },
    /// Stop, see through what is under way, and write the record there.
    End {
        /// A file.
        record: PathBuf,
    },
}

/// What it answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Told {
    /// The load runs.
    Begun,
    /// The record is written.
    Ended {
        /// In it.
        operations: usize,
    },
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

/// Clients of one process have ids from its number times this.
const IDS_PER_PROCESS: u32 = 1_000;
/// How long what is under way at the end of a round is waited for: beyond the SDK's own patience and the longest wait.
const SEEN_THROUGH_WITHIN: Duration = Duration::from_secs(20);

/// Runs until standard input ends.
///
/// # Errors
/// What cannot be read, written or understood, for people.
pub async fn run(options: Options) -> Result<(), String> {
    let config = ClusterConfig::load(&options.config).map_err(|error| error.to_string())?.0;
    let map = Arc::new(config.shard_map());
    let recorder = Arc::new(Recorder::default());
    // Several connections, as several applications would have.
    let clients: Vec<Client> = (0..4)
        .map(|at| Client::with_options(rotated(&options.endpoints, at), ClientOptions::new().owner("chaos")))
        .collect();
    let callers: Vec<Caller> = (0..options.actors)
        .map(|actor| {
            let client = clients[actor as usize % clients.len()].clone();
            let id = options.number * IDS_PER_PROCESS + actor;
            Caller::new(client, id, recorder.clone(), map.clone())
        })
        .collect();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut over = Arc::new(AtomicBool::new(true));
    let mut actors = JoinSet::new();
    while let Some(line) = lines.next_line().await.map_err(|error| format!("cannot read orders: {error}"))? {
        match serde_json::from_str(&line).map_err(|error| format!("{line:?} is no order: {error}"))? {
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
                    let rng = Rng::new(options.seed ^ (u64::from(caller.id) << 32) ^ u64::from(round));
                    let actor = Actor { caller: caller.clone(), role, rng, from_us, round, over: over.clone() };
                    actors.spawn(actor.run());
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
                taken.save(&record).map_err(|error| format!("{}: {error}", record.display()))?;
                tell(&Told::Ended { operations: taken.operations.len() });
            }
        }
    }
    Ok(())
}

fn tell(told: &Told) {
    println!("{}", serde_json::to_string(told).expect("what is told is plain"));
}

/// The same gateways, another one first.
fn rotated(endpoints: &str, by: usize) -> Vec<String> {
    let mut endpoints: Vec<String> = endpoints.split(',').map(str::to_owned).collect();
    let by = by % endpoints.len();
    endpoints.rotate_left(by);
    endpoints
}
