//! Smell tests: figures at which a reader should stop, and advice for each.
//!
//! A test with an unknown input is left out. Its input is never made up.

use crate::contention::{self, ContentionLevel};
use crate::duration::show_s;
use crate::figures::Figures;
use crate::quantity::{bytes, count, counted, decimals, percent, show};
use crate::{Sizing, Workload};
use serde::Serialize;

/// The result of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// There is nothing to do.
    Pass,
    /// The figure is worth a thought.
    Warn,
    /// Something must be changed.
    Fail,
}

impl Verdict {
    /// The verdict as shown to people.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        }
    }
}

/// The result of one test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SmellTest {
    /// Name of the test. Stable, for programs.
    pub name: &'static str,
    /// The verdict on the figure.
    pub verdict: Verdict,
    /// The finding, with its numbers.
    pub finding: String,
    /// The advice. Empty if the test passed.
    pub advice: String,
    /// Whether a failure of this test means that the plan does not fit.
    pub must_hold: bool,
}

/// Most shards of a cluster.
const SHARDS_MAX: u64 = routing::SHARDS_MAX as u64;
/// History of one node: above the first limit it is worth a thought, above the second it is too
/// much.
const NODE_HISTORY_BYTES: (f64, f64) = (1e12, 10e12);
/// Locks per instance: the specification has 10,000 workers on 2,000 instances, and no process
/// reaches the second limit.
const LOCKS_PER_INSTANCE: (f64, f64) = (5.0, 1_000.0);
/// Shortest TTL without a warning. A failover takes less than a second, and a lease should outlive
/// that and a pause of its holder.
const TTL_SHORT_S: f64 = 2.0;
/// Utilisation below which fewer renewals are not worth a change.
const UTILISATION_LITTLE: f64 = 0.1;
/// Longest round trip between replicas in one data centre, in milliseconds.
const RTT_ONE_SITE_MS: f64 = 5.0;

/// All tests with known inputs.
pub(crate) fn tests(workload: &Workload, figures: &Figures) -> Vec<SmellTest> {
    let mut tests = vec![
        capacity(workload, figures),
        latency(workload, figures),
        one_site(workload),
        failures(workload, figures),
        storage(figures),
        heartbeats(workload, figures),
        ttl(workload),
        concurrency(workload, figures),
    ];
    tests.extend(zones(workload, figures));
    tests.extend(hot_names(workload));
    tests
}

fn test(name: &'static str, verdict: Verdict, finding: String, advice: &str) -> SmellTest {
    let advice = if verdict == Verdict::Pass { String::new() } else { advice.to_owned() };
    SmellTest { name, verdict, finding, advice, must_hold: false }
}

fn must_hold(test: SmellTest) -> SmellTest {
    SmellTest { must_hold: true, ..test }
}

/// The verdict on a value that should not exceed the first limit and must not exceed the second.
fn below(value: f64, (warn, fail): (f64, f64)) -> Verdict {
    match value {
        value if value > fail => Verdict::Fail,
        value if value > warn => Verdict::Warn,
        _ => Verdict::Pass,
    }
}

fn capacity(workload: &Workload, figures: &Figures) -> SmellTest {
    let used = figures.peak_utilisation;
    let shards = count(figures.shards);
    if figures.shards > SHARDS_MAX {
        let finding = format!(
            "{shards} shards are more than the {} that a cluster has at most",
            count(SHARDS_MAX)
        );
        let advice = "share leases, renew less often, or split the workload over clusters";
        return must_hold(test("leader_capacity", Verdict::Fail, finding, advice));
    }
    let leaders = if figures.shards == 1 {
        "the leader is".into()
    } else {
        format!("each of {shards} leaders is")
    };
    let finding = format!("at the peak {leaders} asked for {} of its capacity", percent(used));
    let needed = figures.shards_peak.shards;
    let advice = match workload.sizing {
        Sizing::Average => format!(
            "sized on the average: the peak needs {}; set `sizing: peak`",
            shard_word(needed)
        ),
        Sizing::Peak => "keep some capacity for a failover: set `headroom`, such as 20%".to_owned(),
    };
    // 1e-9 is the error that earlier rounding may have added.
    let verdict = below(used, (0.9 + 1e-9, 1.0 + 1e-9));
    must_hold(test("leader_capacity", verdict, finding, &advice))
}

fn shard_word(shards: u64) -> String {
    counted(shards, "shard")
}

fn latency(workload: &Workload, figures: &Figures) -> SmellTest {
    let (budget, target) = (&figures.latency_ms, workload.target_p99_ms);
    let ms = |value: f64| decimals(value, 2);
    let range = format!("{}–{} ms", ms(budget.low), ms(budget.high));
    let (verdict, finding, advice) = if budget.low > target {
        let finding =
            format!("an acquire takes {range}: a p99 of {} ms cannot be reached", ms(target));
        (
            Verdict::Fail,
            finding,
            "keep a quorum of each shard in one data centre, or raise `target_p99`",
        )
    } else if budget.expected() > target {
        let finding = format!(
            "an acquire takes {range}: a p99 of {} ms is reached at best, not as a rule",
            ms(target)
        );
        (Verdict::Fail, finding, "raise `target_p99`, or calibrate on faster disks and network")
    } else if budget.high > target {
        let finding = format!(
            "an acquire takes {range}: the far end is above the target of {} ms",
            ms(target)
        );
        (Verdict::Warn, finding, "measure the p99 under load before promising it")
    } else {
        (Verdict::Pass, format!("an acquire takes {range}, the target is {} ms", ms(target)), "")
    };
    must_hold(test("latency", verdict, finding, advice))
}

fn one_site(workload: &Workload) -> SmellTest {
    let name = "one_data_centre";
    match workload.network_rtt_ms {
        Some(rtt) if rtt > RTT_ONE_SITE_MS => {
            let finding =
                format!("replicas are {} ms apart: every write waits for that", decimals(rtt, 2));
            test(
                name,
                Verdict::Warn,
                finding,
                "one cluster per region, and names that belong to one region",
            )
        }
        Some(rtt) => {
            test(name, Verdict::Pass, format!("replicas are {} ms apart", decimals(rtt, 2)), "")
        }
        None => {
            test(name, Verdict::Pass, "replicas are taken to share a data centre".to_owned(), "")
        }
    }
}

fn failures(workload: &Workload, figures: &Figures) -> SmellTest {
    let (replicas, tolerated) = (workload.replicas, figures.failures_tolerated);
    let finding = format!(
        "{}, quorum {}: {tolerated} may fail",
        counted(replicas.into(), "replica"),
        figures.quorum
    );
    let name = "failures_tolerated";
    if tolerated == 0 {
        return must_hold(test(name, Verdict::Fail, finding, "set `replicas` to 3 or 5"));
    }
    let verdict = if replicas.is_multiple_of(2) { Verdict::Warn } else { Verdict::Pass };
    let advice =
        format!("an even number survives no more than {}: choose an odd one", replicas - 1);
    must_hold(test(name, verdict, finding, &advice))
}

fn zones(workload: &Workload, figures: &Figures) -> Option<SmellTest> {
    let zones = workload.failure_zones;
    if zones == 0 {
        return None;
    }
    let lost = workload.replicas.div_ceil(zones);
    let finding = format!(
        "with {}, losing one takes up to {} of a shard",
        counted(zones.into(), "zone"),
        counted(lost.into(), "replica")
    );
    let verdict = if lost > figures.failures_tolerated { Verdict::Warn } else { Verdict::Pass };
    Some(test(
        "zone_loss",
        verdict,
        finding,
        "spread over at least 3 zones, or shards stop with one",
    ))
}

fn storage(figures: &Figures) -> SmellTest {
    let per_node = figures.history_bytes_total as f64 / figures.shards as f64;
    let finding = format!("each node keeps {} of history", bytes(per_node));
    let advice = "keep fewer `history_days`, one record per grant, or archive days elsewhere";
    test("storage", below(per_node, NODE_HISTORY_BYTES), finding, advice)
}

fn heartbeats(workload: &Workload, figures: &Figures) -> SmellTest {
    let share = figures.renewal_share;
    let finding = format!("renewals are {} of the writes", percent(share));
    let verdict = below(share, (0.8, 0.9));
    let name = "heartbeat_dominance";
    if verdict == Verdict::Fail && figures.peak_utilisation < UTILISATION_LITTLE {
        let advice = "it costs little: all writes take less than a tenth of a leader's capacity";
        return test(name, Verdict::Warn, finding, advice);
    }
    let ttl = show_s(workload.ttl_s);
    let advice = if figures.leader_capacity.shared_leases {
        format!(
            "a longer TTL than {ttl}, or names with a common {{tag}} so that a session spans fewer \
             shards"
        )
    } else {
        format!("a longer TTL than {ttl}, batched renewals, or one lease for many locks")
    };
    test(name, verdict, finding, &advice)
}

fn ttl(workload: &Workload) -> SmellTest {
    // The longest time that a holder is busy without renewing.
    let step_s = workload.heartbeat_s.min(workload.hold_s);
    let ttl = show_s(workload.ttl_s);
    let name = "ttl";
    if workload.ttl_s < 2.0 * step_s * (1.0 - 1e-9) {
        let finding =
            format!("the TTL of {ttl} is below twice the {} between renewals", show_s(step_s));
        return test(
            name,
            Verdict::Warn,
            finding,
            "one lost heartbeat loses the lock: renew at half the TTL or sooner",
        );
    }
    let finding =
        format!("the TTL of {ttl} is at least twice the {} between renewals", show_s(step_s));
    if workload.ttl_s < TTL_SHORT_S {
        let finding = format!("the TTL of {ttl} is short");
        return test(
            name,
            Verdict::Warn,
            finding,
            "a pause of the holder or a failover can lose the lock: 5s or more",
        );
    }
    test(name, Verdict::Pass, finding, "")
}

fn concurrency(workload: &Workload, figures: &Figures) -> SmellTest {
    let each = figures.peak_active_locks / workload.instances as f64;
    let finding = {
        let (instances, locks) = (counted(workload.instances, "instance"), show(each));
        let locks = if locks == "1" { "1 lock".to_owned() } else { format!("{locks} locks") };
        match workload.instances {
            1 => format!("at the peak the instance holds {locks}"),
            _ => format!("at the peak each of {instances} holds {locks}"),
        }
    };
    let advice =
        "more than 5 workers per instance would have to hold one each: check `hold` and the rate";
    test("concurrency", below(each, LOCKS_PER_INSTANCE), finding, advice)
}

fn hot_names(workload: &Workload) -> Option<SmellTest> {
    let name = "hot_names";
    let busy = contention::hottest_busy(workload);
    if let Some(busy) = busy
        && busy > 1.0
    {
        let finding = format!(
            "the hottest name is wanted {} times as often as it can be granted",
            show(busy)
        );
        let advice =
            "one lock is granted once per hold: hold it shorter, or split it into finer locks";
        return Some(must_hold(test(name, Verdict::Fail, finding, advice)));
    }
    let held = workload.acquire_per_s() * workload.peak_multiplier * workload.hold_s;
    let rate = workload.resources.map(|names| held / names as f64);
    let worst = rate
        .into_iter()
        .chain(busy)
        .fold(None, |worst: Option<f64>, rate| Some(worst.map_or(rate, |w| w.max(rate))))?;
    if worst > 1.0 {
        let finding = format!(
            "{} locks would be held on {} names",
            show(held),
            count(workload.resources.unwrap_or(0))
        );
        let advice =
            "more locks are wanted than names exist: hold them shorter, or use finer locks";
        return Some(must_hold(test(name, Verdict::Fail, finding, advice)));
    }
    let level = ContentionLevel::of(worst);
    let finding = format!(
        "an acquire finds its lock taken {} of the time or more: {}",
        percent(worst),
        level.name()
    );
    let verdict = if level == ContentionLevel::Low { Verdict::Pass } else { Verdict::Warn };
    Some(test(name, verdict, finding, "wait in the queue instead of retrying, and use finer locks"))
}
