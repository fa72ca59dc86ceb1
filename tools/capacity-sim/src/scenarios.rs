//! The scenarios of a planned cluster: the average, the peak, a lost leader, a lost zone.

use crate::agenda::Ns;
use crate::build::{Shape, op_bytes, world};
use crate::load::Load;
use crate::measure::{Run, measure, together};
use crate::world::{Event, World};
use crate::{WARM_UP_S, ns};
use planner::{Column, EmitFor, LeaderCapacity, Plan, PlanError, Rates, Sizing, quorum};
use serde::Serialize;

/// The choices for the simulation of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimulateOptions {
    /// The seed of all random numbers.
    pub seed: u64,
    /// The number of shards, if not the number that today's load needs.
    pub shards: Option<u64>,
    /// The column of the plan that gives the number of shards. The default is this service's
    /// column.
    pub column: Option<EmitFor>,
}

/// The level of load in a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LoadLevel {
    /// The average load of the workload.
    Average,
    /// The peak load of the workload.
    Peak,
}

/// The recovery of a shard after a loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// Time from the loss to the first served operation, in half of the runs. `None` means that no
    /// replica can serve.
    pub serves_after_ms: Option<f64>,
    /// The same time in the slowest run.
    pub serves_after_worst_ms: Option<f64>,
    /// Time from the loss until p99 is at most one and a half times its old value plus a
    /// millisecond, in half of the runs. `None` means that it takes longer than the simulated time.
    pub p99_back_after_ms: Option<f64>,
    /// The same time in the slowest run.
    pub p99_back_after_worst_ms: Option<f64>,
}

/// One scenario, by the figures of one of its shards.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Scenario {
    /// A stable name for programs.
    pub name: &'static str,
    /// A title for people.
    pub title: &'static str,
    /// The level of load.
    pub load: LoadLevel,
    /// Share of the shards that the scenario affects.
    pub share_of_shards: f64,
    /// Nodes lost by each of these shards.
    pub nodes_lost: u32,
    /// The figures of one shard. After a loss, they begin when the shard is served again.
    pub run: Run,
    /// Whether all offered operations were answered.
    pub keeps_up: bool,
    /// Share of a leader's capacity that the load needs, by the formulas.
    pub formula_utilisation: f64,
    /// The recovery, after a loss that interrupts the service of the shard.
    pub recovery: Option<Recovery>,
}

/// A simulated plan with all its scenarios.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    /// Whether the costs were measured; otherwise they are assumptions.
    pub measured: bool,
    /// The origin of the costs.
    pub costs: String,
    /// The seed of all random numbers.
    pub seed: u64,
    /// Shards of the cluster.
    pub shards: u64,
    /// Nodes of the cluster.
    pub nodes: u64,
    /// Gateways that share the load: those of the plan, less the one that may fail.
    pub gateways: u64,
    /// Cores of each machine.
    pub cores: u64,
    /// Round trip between machines.
    pub network_rtt_ms: f64,
    /// Runs of one shard behind each scenario.
    pub shards_simulated: u32,
    /// Operations answered in all runs.
    pub operations_simulated: u64,
    /// The latency of an acquire by the formulas, at best and at p99.
    pub budget_ms: (f64, f64),
    /// The scenarios in display order.
    pub scenarios: Vec<Scenario>,
}

/// Runs behind each scenario.
const SAMPLES: u64 = 5;
/// Round trip within one data centre, as in the latency budget at best.
const RTT_MS: f64 = 1.0;
/// Lowest rate that is simulated. A shard with a lower rate would have too few operations for
/// figures.
const WRITES_PER_S_MIN: f64 = 20.0;
/// Highest rate that is simulated. A higher one is not realistic, and would take all memory here.
const WRITES_PER_S_MAX: f64 = 2e6;
/// Shortest and longest measured span in seconds. Within these, it lasts [`OPS_ENOUGH`] operations.
const SPAN_S: (f64, f64) = (2.0, 20.0);
const OPS_ENOUGH: f64 = 40_000.0;
/// Steady span before a loss, and observed span after it.
const BEFORE_S: f64 = 2.0;
const AFTER_S: f64 = 12.0;
/// The length of the windows in which p99 is computed.
const WINDOW_S: f64 = 0.25;
/// Operations per entry in the count of gateways. The value is low, so that the gateways suffice.
const ENTRY_OPS: f64 = 10.0;
/// Gateways suffice if each is busy for less than this share.
const GATEWAY_CPU: f64 = 0.5;

/// Simulates a plan.
///
/// # Errors
/// If a shard has a higher rate than can be simulated.
pub fn simulate(plan: &Plan, options: &SimulateOptions) -> Result<Simulation, PlanError> {
    let column = match options.column.unwrap_or(EmitFor::Palisade) {
        EmitFor::Specification => &plan.specification,
        EmitFor::Palisade => &plan.palisade,
    };
    let cluster = Cluster::of(plan, column, options)?;
    let sized_for = match plan.workload.sizing {
        Sizing::Average => LoadLevel::Average,
        Sizing::Peak => LoadLevel::Peak,
    };
    let mut operations = 0;
    let mut scenarios = Vec::new();
    for (name, title, level) in
        [("average", "average load", LoadLevel::Average), ("peak", "peak load", LoadLevel::Peak)]
    {
        scenarios.push(cluster.steady(name, title, level, &mut operations));
    }
    let steady = scenarios.iter().find(|scenario| scenario.load == sized_for);
    let p99_ms = steady.map_or(0.0, |scenario| scenario.run.p99_ms);
    for loss in cluster.losses() {
        scenarios.push(cluster.lose(&loss, sized_for, p99_ms, &mut operations));
    }
    let (workload, budget) = (&plan.workload, &plan.palisade.figures.latency_ms);
    Ok(Simulation {
        measured: plan.calibration.measured,
        costs: plan.calibration.source.clone(),
        seed: options.seed,
        shards: cluster.shards,
        nodes: cluster.shards.saturating_mul(u64::from(workload.nodes_per_shard)),
        gateways: cluster.gateways,
        cores: plan.calibration.cores,
        network_rtt_ms: cluster.rtt_ms(),
        shards_simulated: SAMPLES as u32,
        operations_simulated: operations,
        budget_ms: (budget.low, budget.high),
        scenarios,
    })
}

/// The minimum of gateways that share the load of this many shards.
fn gateways_for(shards: u64) -> u64 {
    if shards == 1 { 1 } else { shards.div_ceil(10).max(2) }
}

/// The nodes that a scenario loses.
struct Loss {
    name: &'static str,
    title: &'static str,
    share_of_shards: f64,
    nodes: u32,
    leader: bool,
}

struct Cluster<'a> {
    plan: &'a Plan,
    rates: Rates,
    capacity: LeaderCapacity,
    shards: u64,
    gateways: u64,
    reads_per_s: f64,
    seed: u64,
}

impl Cluster<'_> {
    fn of<'a>(
        plan: &'a Plan,
        column: &Column,
        options: &SimulateOptions,
    ) -> Result<Cluster<'a>, PlanError> {
        let (rates, capacity) =
            (Rates::of(&plan.workload), LeaderCapacity::palisade(&plan.calibration));
        let shards = options.shards.unwrap_or(column.figures.shards);
        if shards == 0 {
            return Err(PlanError::Value {
                key: "shards",
                problem: "is 0: somebody has to serve".to_owned(),
            });
        }
        let mut cluster = Cluster {
            plan,
            rates,
            capacity,
            shards,
            gateways: 1,
            reads_per_s: column.figures.reads_per_s,
            seed: options.seed,
        };
        let (writes, renewals) = cluster.per_shard(LoadLevel::Peak);
        if writes + renewals > WRITES_PER_S_MAX {
            let problem = format!(
                "is {shards}: {:.0} writes/s for each are more than can be simulated; give more \
                 shards",
                writes + renewals
            );
            return Err(PlanError::Value { key: "shards", problem });
        }
        let wanted = match plan.workload.sizing {
            Sizing::Average => cluster.per_shard(LoadLevel::Average),
            Sizing::Peak => (writes, renewals),
        };
        let weight = wanted.0 + wanted.1 * cluster.renewal_weight();
        let busy_cores =
            weight * plan.calibration.costs.gateway_us_at(ENTRY_OPS) / 1e6 * shards as f64;
        let enough = (busy_cores / plan.calibration.cores as f64 / GATEWAY_CPU).ceil() as u64;
        cluster.gateways = gateways_for(shards).max(enough);
        Ok(cluster)
    }

    /// Acquires and releases, and renewals, per second.
    fn per_shard(&self, level: LoadLevel) -> (f64, f64) {
        let rates = self.rates_at(level);
        let shards = self.shards as f64;
        (
            (rates.acquire_per_s + rates.release_per_s) / shards,
            self.capacity.renew_per_s(&rates, self.shards) / shards,
        )
    }

    fn rates_at(&self, level: LoadLevel) -> Rates {
        match level {
            LoadLevel::Average => self.rates,
            LoadLevel::Peak => self.rates.at_peak(self.plan.workload.peak_multiplier),
        }
    }

    /// The cost of a renewal relative to an acquire.
    fn renewal_weight(&self) -> f64 {
        self.capacity.writes_per_s / self.capacity.renewals_per_s
    }

    fn rtt_ms(&self) -> f64 {
        self.plan.workload.network_rtt_ms.unwrap_or(RTT_MS)
    }

    fn world(&self, level: LoadLevel, replicas_that_read: u32, sample: u64) -> World {
        let (workload, calibration) = (&self.plan.workload, &self.plan.calibration);
        let (writes, renewals) = self.per_shard(level);
        let times = if level == LoadLevel::Peak { workload.peak_multiplier } else { 1.0 };
        let reads =
            self.reads_per_s * times / self.shards as f64 / f64::from(replicas_that_read.max(1));
        let shape = Shape {
            nodes: workload.replicas as usize,
            shards: 1,
            one_machine: false,
            link_ns: ns(self.rtt_ms() / 2e3),
            gateways: self.gateways as usize,
            gateway_share: self.gateway_share().max(1.0),
            checks_per_s: reads,
        };
        let bytes = op_bytes(calibration, &workload.entry);
        let seed = self.seed.wrapping_mul(1_000).wrapping_add(sample);
        let load =
            Load::open(bytes, writes.max(WRITES_PER_S_MIN), renewals, self.renewal_weight(), seed);
        world(calibration, &shape, load, seed)
    }

    /// Shards that each core of a gateway serves.
    fn gateway_share(&self) -> f64 {
        self.shards as f64 / self.gateways as f64 / self.plan.calibration.cores as f64
    }

    fn steady(
        &self,
        name: &'static str,
        title: &'static str,
        level: LoadLevel,
        operations: &mut u64,
    ) -> Scenario {
        let span_s = self.span_s(level);
        let spans = (0..SAMPLES).map(|sample| {
            let mut world = self.world(level, self.plan.workload.replicas, sample);
            world.begin();
            world.run(ns(WARM_UP_S));
            measure(&mut world, ns(WARM_UP_S + span_s))
        });
        let run = self.shown(together(spans.collect()));
        *operations += ((run.answered_per_s + run.renewals_per_s) * span_s * SAMPLES as f64) as u64;
        self.scenario(
            Loss { name, title, share_of_shards: 1.0, nodes: 0, leader: false },
            level,
            run,
            None,
        )
    }

    fn span_s(&self, level: LoadLevel) -> f64 {
        let (writes, renewals) = self.per_shard(level);
        (OPS_ENOUGH / (writes + renewals).max(WRITES_PER_S_MIN)).clamp(SPAN_S.0, SPAN_S.1)
    }

    /// Scales the gateway's use. If less than one shard shares each core of a gateway, the
    /// simulation gives the shard a whole core.
    fn shown(&self, run: Run) -> Run {
        Run { gateway_cpu: run.gateway_cpu * self.gateway_share().min(1.0), ..run }
    }

    fn scenario(
        &self,
        loss: Loss,
        level: LoadLevel,
        run: Run,
        recovery: Option<Recovery>,
    ) -> Scenario {
        Scenario {
            name: loss.name,
            title: loss.title,
            load: level,
            share_of_shards: loss.share_of_shards,
            nodes_lost: loss.nodes,
            run,
            keeps_up: run.answered_per_s > 0.97 * run.offered_per_s && run.refused_per_s == 0.0,
            formula_utilisation: self.capacity.utilisation(&self.rates_at(level), self.shards),
            recovery,
        }
    }

    fn losses(&self) -> Vec<Loss> {
        let replicas = self.plan.workload.replicas;
        // Without zones each node fails alone.
        let zones = match self.plan.workload.failure_zones {
            0 => replicas,
            zones => zones.min(replicas),
        };
        let nodes = replicas.div_ceil(zones);
        let led = 1.0 / f64::from(zones);
        let mut losses = vec![Loss {
            name: "leader_lost",
            title: "a leader is lost",
            share_of_shards: 1.0 / self.shards as f64,
            nodes: 1,
            leader: true,
        }];
        losses.push(Loss {
            name: "zone_lost_with_leader",
            title: "a zone is lost: shards led there",
            share_of_shards: led,
            nodes,
            leader: true,
        });
        if zones > 1 {
            losses.push(Loss {
                name: "zone_lost_with_followers",
                title: "a zone is lost: all other shards",
                share_of_shards: 1.0 - led,
                nodes,
                leader: false,
            });
        }
        losses
    }

    fn lose(
        &self,
        loss: &Loss,
        level: LoadLevel,
        steady_p99_ms: f64,
        operations: &mut u64,
    ) -> Scenario {
        let replicas = self.plan.workload.replicas;
        let left = replicas - loss.nodes;
        let at = ns(WARM_UP_S + BEFORE_S);
        // Recovery must end by `settled`. The rest of the span shows the state after it.
        let (settled, end) = (at + ns(AFTER_S / 2.0), at + ns(AFTER_S));
        let limit_ms = 1.5 * steady_p99_ms + 1.0;
        let (mut spans, mut serves, mut back) = (Vec::new(), Vec::new(), Vec::new());
        for sample in 0..SAMPLES {
            let mut world = self.world(level, left, sample);
            let first = usize::from(!loss.leader);
            let nodes: Vec<usize> = (first..first + loss.nodes as usize).collect();
            world.agenda.at(at, Event::Die(nodes));
            world.begin();
            world.run(at);
            world.log.clear();
            world.run(settled);
            let slow = world.log.last_slow_window(at, ns(WINDOW_S), limit_ms);
            let served = world.served_again[0].map(|then| ms(then - at));
            *operations += world.log.count() as u64 + world.log.renewals;
            let (run, latencies) = measure(&mut world, end);
            *operations += latencies.len() as u64;
            let slow_later = world.log.last_slow_window(settled, ns(WINDOW_S), limit_ms).is_some();
            let never = slow_later || run.answered_per_s == 0.0;
            serves.push(if loss.leader { served } else { Some(0.0) });
            back.push(if never { None } else { Some(slow.map_or(0.0, ms)) });
            spans.push((run, latencies));
        }
        let run = self.shown(together(spans));
        let served = left >= quorum(replicas);
        let recovery = (loss.leader || !served).then(|| Recovery {
            serves_after_ms: if served { median(&serves) } else { None },
            serves_after_worst_ms: if served { worst(&serves) } else { None },
            p99_back_after_ms: median(&back),
            p99_back_after_worst_ms: worst(&back),
        });
        self.scenario(Loss { ..*loss }, level, run, recovery)
    }
}

fn ms(time: Ns) -> f64 {
    time as f64 / 1e6
}

/// The median of the runs; `None` if half of the runs have no value.
fn median(runs: &[Option<f64>]) -> Option<f64> {
    sorted(runs)[runs.len() / 2]
}

/// The worst of the runs; `None` if any run has no value.
fn worst(runs: &[Option<f64>]) -> Option<f64> {
    *sorted(runs).last()?
}

/// The runs in order. `None` counts as the worst.
fn sorted(runs: &[Option<f64>]) -> Vec<Option<f64>> {
    let mut runs = runs.to_vec();
    runs.sort_by(|left, right| {
        left.unwrap_or(f64::INFINITY).total_cmp(&right.unwrap_or(f64::INFINITY))
    });
    runs
}
