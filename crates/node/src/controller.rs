//! The controller: on the node that leads META, it plans the next changes of the topology from what
//! nodes report.
//!
//! * It works exactly while META is led here. Another term begins it anew, without reports, and the
//!   plans wait until each live node has reported to it.
//! * It has no state beside the last report of each node: a plan is a function of the topology, the
//!   reports and the time ([`topology::plan`]).
//! * Its time is the wall time at which it began, carried on by the monotonic clock. So a wall clock
//!   that jumps makes no node look silent.
//!
//! What stands in the way of a plan is logged once, and shown in the status of the cluster. This
//! module knows nothing of proposals: `control.rs` carries plans out.

use crate::board::Board;
use routing::META;
use shard::{Now, Role};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use topology::plan::{self, Plan, Report, Reports};
use topology::{NodeTold, Topology};

/// The controller's part of a node, whether META is led here or not.
#[derive(Debug, Default)]
pub(crate) struct Controller {
    tenure: Mutex<Option<Tenure>>,
    /// A report brought news.
    news: Notify,
    rounds: AtomicU64,
}

/// One leadership of META, and what was reported to it.
#[derive(Debug)]
struct Tenure {
    term: u64,
    began: Now,
    reports: Reports,
    /// What stands in the way of the last plan, in words.
    obstacles: Vec<String>,
}

impl Tenure {
    fn new(term: u64, began: Now) -> Tenure {
        let reports = Reports { since_ms: began.wall_ms, nodes: BTreeMap::new() };
        Tenure { term, began, reports, obstacles: Vec::new() }
    }

    /// The time of its plans, in milliseconds.
    fn time_ms(&self, now: Now) -> u64 {
        self.began.wall_ms + now.mono_ms.saturating_sub(self.began.mono_ms)
    }
}

impl Controller {
    /// Takes a report. Returns `false` if META is not led here.
    pub(crate) fn take(&self, board: &Board, now: Now, report: Report) -> bool {
        let mut tenure = self.tenure(board, now);
        let Some(tenure) = &mut *tenure else { return false };
        let report = Report { heard_ms: tenure.time_ms(now), ..report };
        let before = tenure.reports.nodes.insert(report.told.node, report.clone());
        if before.is_none_or(|before| report.is_news_after(&before)) {
            self.news.notify_one();
        }
        true
    }

    /// Counts a node that joins as heard of, until it reports. Otherwise a plan that is made before that
    /// passes it over.
    pub(crate) fn hear_joiner(&self, board: &Board, now: Now, told: NodeTold) {
        if let Some(tenure) = &mut *self.tenure(board, now) {
            let heard_ms = tenure.time_ms(now);
            let joiner = || {
                let (replicas, behind) = Default::default();
                Report { heard_ms, told: told.clone(), replicas, behind }
            };
            tenure.reports.nodes.entry(told.node).or_insert_with(joiner);
        }
    }

    /// What stands in the way of the last plan. Empty if META is not led here.
    pub(crate) fn obstacles(&self) -> Vec<String> {
        let tenure = self.lock();
        tenure.iter().flat_map(|tenure| tenure.obstacles.iter().cloned()).collect()
    }

    /// How many plans were made and carried out here.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Returns once a report has brought news.
    pub(crate) async fn has_news(&self) {
        self.news.notified().await;
    }

    /// Asks for another plan at once.
    pub(crate) fn wake(&self) {
        self.news.notify_one();
    }

    /// Counts a plan that was carried out.
    pub(crate) fn finished_round(&self) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
    }

    /// The next plan, with the time in seconds for its commands. `None` if META is not led here.
    pub(crate) fn plan(&self, board: &Board, now: Now, topology: &Topology) -> Option<(u64, Plan)> {
        let mut tenure = self.tenure(board, now);
        let tenure = tenure.as_mut()?;
        let time_ms = tenure.time_ms(now);
        let plan = plan::plan(topology, &tenure.reports, time_ms);
        let obstacles = obstacles_of(&plan);
        for obstacle in obstacles.iter().filter(|one| !tenure.obstacles.contains(one)) {
            tracing::warn!("the topology does not change as it should: {obstacle}");
        }
        if obstacles.is_empty() && !tenure.obstacles.is_empty() {
            tracing::info!("nothing stands in the way of changes of the topology any more");
        }
        tenure.obstacles = obstacles;
        Some((time_ms / 1_000, plan))
    }

    /// What was reported so far, with the time of the next plan. `None` if META is not led here.
    pub(crate) fn sight(&self, board: &Board, now: Now) -> Option<(Reports, u64)> {
        let tenure = self.tenure(board, now);
        tenure.as_ref().map(|tenure| (tenure.reports.clone(), tenure.time_ms(now)))
    }

    /// The present leadership of META, if it is here.
    fn tenure(&self, board: &Board, now: Now) -> MutexGuard<'_, Option<Tenure>> {
        let meta = board.get(META).filter(|status| status.role == Role::Leader);
        let term = meta.map(|status| status.term);
        let mut tenure = self.lock();
        if tenure.as_ref().map(|tenure| tenure.term) != term {
            *tenure = term.map(|term| Tenure::new(term, now));
        }
        tenure
    }

    fn lock(&self) -> MutexGuard<'_, Option<Tenure>> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What stands in the way of a plan, each once.
fn obstacles_of(plan: &Plan) -> Vec<String> {
    let disbelieved = plan.disbelieved.iter().map(ToString::to_string);
    let mut obstacles: Vec<String> = Vec::new();
    for obstacle in plan.stalls.iter().map(ToString::to_string).chain(disbelieved) {
        if !obstacles.contains(&obstacle) {
            obstacles.push(obstacle);
        }
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;
    use routing::{ClusterConfig, NodeId, ShardId};
    use shard::Status;
    use topology::plan::HEARD_MS;
    use topology::{Command, Levels, Proposal, Seed, StoreId};

    fn now(mono_ms: u64, wall_ms: u64) -> Now {
        Now { mono_ms, wall_ms }
    }

    fn board(term: u64, role: Role) -> Board {
        let board = Board::new([META]);
        lead(&board, term, role);
        board
    }

    fn lead(board: &Board, term: u64, role: Role) {
        board.publish(Status { shard: META, node: NodeId(1), term, role, ..Status::default() });
    }

    fn told(topology: &Topology, node: u64) -> NodeTold {
        NodeTold {
            node: NodeId(node),
            address: topology.node(NodeId(node)).unwrap().address.clone(),
            zone: None,
            store: StoreId([node as u8; 16]),
            start: routing::AddressVersion { incarnation: 0, starts: 1 },
            levels: Levels { min: 1, max: 1 },
            binary: "1".into(),
        }
    }

    fn report(topology: &Topology, node: u64) -> Report {
        Report {
            heard_ms: 0,
            told: told(topology, node),
            replicas: BTreeMap::new(),
            behind: Default::default(),
        }
    }

    fn founded() -> Topology {
        let mut topology = Topology::default();
        let seed = Seed::of(&ClusterConfig::dev(2, 3, 20_000).unwrap());
        topology.apply(&Proposal::new(7, Command::Bootstrap { seed })).unwrap();
        topology
    }

    #[test]
    fn nothing_is_taken_or_planned_where_meta_is_not_led() {
        let (topology, controller) = (founded(), Controller::default());
        for role in [Role::Follower, Role::Candidate] {
            let board = board(4, role);
            assert!(!controller.take(&board, now(0, 0), report(&topology, 1)));
            assert!(controller.plan(&board, now(0, 0), &topology).is_none());
        }
        let without = Board::new([ShardId(0)]);
        assert!(!controller.take(&without, now(0, 0), report(&topology, 1)));
    }

    /// Regression: `rebalance --members` right after a join was done without the new node.
    #[test]
    fn a_node_that_joins_is_heard_of_before_its_first_report() {
        let (topology, controller) = (founded(), Controller::default());
        let (board, at) = (board(4, Role::Leader), now(1_000, 1_700_000_000_000));
        let told_of = |binary: &str| NodeTold { binary: binary.into(), ..told(&topology, 3) };
        let heard = || {
            let (reports, now_ms) = controller.sight(&board, at).unwrap();
            let report =
                reports.nodes.get(&NodeId(3)).filter(|_| reports.is_heard(NodeId(3), now_ms));
            report.map(|report| report.told.binary.clone())
        };
        assert_eq!(heard(), None);
        controller.hear_joiner(&board, at, told_of("1"));
        assert_eq!(heard().as_deref(), Some("1"));
        controller.hear_joiner(&board, at, told_of("2"));
        assert_eq!(heard().as_deref(), Some("1"), "a report tells more");
    }

    #[test]
    fn another_term_begins_without_reports_and_waits_for_each_live_node() {
        let (topology, controller) = (founded(), Controller::default());
        let board = board(4, Role::Leader);
        let planned = |at: Now| controller.plan(&board, at, &topology).unwrap().1.commands.len();
        let all = |at: Now, nodes: &[u64]| {
            nodes.iter().for_each(|node| {
                assert!(controller.take(&board, at, report(&topology, *node)));
            });
        };
        let start = now(1_000, 1_700_000_000_000);
        all(start, &[1, 2]);
        assert_eq!(planned(start), 0, "node 3 may live");
        all(start, &[3]);
        assert_eq!(planned(start), 3, "one fact of each node");
        lead(&board, 5, Role::Leader);
        assert_eq!(planned(start), 0, "these reports were to another leadership");
        all(start, &[1, 2]);
        let late = now(start.mono_ms + HEARD_MS + 1, start.wall_ms + HEARD_MS + 1);
        assert_eq!(planned(late), 0, "these are not heard of any more");
        all(late, &[1, 2]);
        assert_eq!(planned(late), 2, "node 3 is down");
        lead(&board, 6, Role::Follower);
        assert!(controller.plan(&board, late, &topology).is_none());
    }

    #[test]
    fn a_wall_clock_that_jumps_silences_nobody() {
        let (topology, controller) = (founded(), Controller::default());
        let board = board(4, Role::Leader);
        for node in 1..=3 {
            controller.take(&board, now(1_000, 1_700_000_000_000), report(&topology, node));
        }
        let jumped = now(2_000, 1_800_000_000_000);
        let (wall_s, plan) = controller.plan(&board, jumped, &topology).unwrap();
        assert_eq!((wall_s, plan.commands.len()), (1_700_000_001, 3));
        let tenure = controller.lock();
        let reports = &tenure.as_ref().unwrap().reports;
        assert!(reports.is_heard(NodeId(1), 1_700_000_001_000));
    }

    #[test]
    fn a_fact_that_is_not_believed_is_said_and_not_proposed() {
        let (mut topology, controller) = (founded(), Controller::default());
        let board = board(4, Role::Leader);
        let known = Command::NodeIs { told: told(&topology, 2) };
        topology.apply(&Proposal::new(8, known)).unwrap().unwrap();
        for node in 1..=3 {
            let mut report = report(&topology, node);
            report.told.store = StoreId([9; 16]);
            report.told.start.starts += 1;
            controller.take(&board, now(0, 0), report);
        }
        for _ in 0..3 {
            let (_, plan) = controller.plan(&board, now(0, 0), &topology).unwrap();
            assert_eq!(plan.commands.len(), 2, "of nodes 1 and 3");
            let obstacles = controller.obstacles();
            assert_eq!(obstacles.len(), 1);
            assert!(obstacles[0].contains("node 2 has another data directory"), "{obstacles:?}");
        }
        lead(&board, 4, Role::Follower);
        controller.take(&board, now(0, 0), report(&topology, 1));
        assert_eq!(controller.obstacles(), Vec::<String>::new());
    }

    #[test]
    fn only_news_wake_the_controller() {
        let (topology, controller) = (founded(), Controller::default());
        let board = board(4, Role::Leader);
        let is_woken = |controller: &Controller| {
            use std::future::Future;
            let mut waiting = std::pin::pin!(controller.news.notified());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            waiting.as_mut().poll(&mut context).is_ready()
        };
        controller.take(&board, now(0, 0), report(&topology, 1));
        assert!(is_woken(&controller));
        controller.take(&board, now(1, 1), report(&topology, 1));
        assert!(!is_woken(&controller));
    }
}
