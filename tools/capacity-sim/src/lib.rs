//! The planned cluster, simulated: arrivals, batching, processors, syncs, links, and the loss of a
//! leader or a zone.
//!
//! It is a discrete-event model with the costs of a [`Calibration`]. Shards of a planned cluster
//! have machines of their own, so a few shards stand for all. All figures follow from the seed: the
//! same input gives the same figures.
//!
//! The model knows nothing of clocks, files and running clusters. It leaves out the time that
//! threads take to wake, other programs on the machines, lost packets, and contention for names.

mod agenda;
mod build;
mod faults;
mod group;
mod host;
mod load;
mod measure;
mod observe;
mod random;
mod report;
mod scenarios;
mod threads;
mod world;

pub use measure::{NodeUse, Run};
pub use report::{json, text};
pub use scenarios::{LoadLevel, Recovery, Scenario, SimulateOptions, Simulation, simulate};

use agenda::Ns;
use build::{Shape, op_bytes, world};
use load::Load;
use measure::measure;
use planner::{Calibration, EntryBytes};

/// Simulated seconds before the measurement begins.
const WARM_UP_S: f64 = 1.0;

fn ns(seconds: f64) -> Ns {
    (seconds * 1e9) as Ns
}

/// A run of `palisade bench --mix acquire-release` in a closed loop. One machine has all nodes, a
/// gateway and the load generator on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OneMachine {
    /// Nodes, each with a replica of every shard.
    pub nodes: u32,
    /// Shards, with leaders spread over the nodes.
    pub shards: u32,
    /// Operations in flight at any time.
    pub clients: u32,
    /// Sizes of the names and owners of the locks.
    pub entry: EntryBytes,
    /// Cores that other programs keep busy meanwhile. The value is below the number of cores.
    pub taken_cores: f64,
}

/// Simulates a run of `palisade bench` on one machine.
///
/// # Panics
/// Without nodes, shards or clients, or if no processor time is left.
pub fn predict(setup: &OneMachine, calibration: &Calibration, seed: u64) -> Run {
    assert!(
        setup.nodes > 0 && setup.shards > 0 && setup.clients > 0,
        "nothing to simulate: {setup:?}"
    );
    let calibration = &slowed(calibration, setup.taken_cores);
    let shape = Shape {
        nodes: setup.nodes as usize,
        shards: setup.shards as usize,
        one_machine: true,
        link_ns: 0,
        gateways: 1,
        gateway_share: 1.0,
        checks_per_s: 0.0,
    };
    let load = Load::closed(op_bytes(calibration, &setup.entry), setup.clients, shape.shards, seed);
    let mut world = world(calibration, &shape, load, seed);
    world.begin();
    world.run(ns(WARM_UP_S));
    measure(&mut world, ns(WARM_UP_S + 5.0)).0
}

/// Scales a calibration for cores that other programs use a part of the time: all work takes longer
/// by that part.
fn slowed(calibration: &Calibration, taken_cores: f64) -> Calibration {
    let (cores, mut slowed) = (calibration.cores as f64, calibration.clone());
    assert!((0.0..cores).contains(&taken_cores), "others take {taken_cores} of {cores} cores");
    slowed.costs.fields().into_iter().for_each(|(_, cost)| *cost *= cores / (cores - taken_cores));
    slowed
}

#[cfg(test)]
mod tests;
