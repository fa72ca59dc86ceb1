//! Properties of every workload. More load or headroom never means fewer shards, and one shard less
//! than the fewest does not carry the load.

use palisade_planner::{Calibration, LeaderCapacity, Plan, PlanError, Rates, Sizing, Workload};
use proptest::prelude::*;

fn workload(
    instances: u64,
    per_min: f64,
    hold_ms: u64,
    ttl_ms: u64,
    peak: f64,
    headroom: f64,
) -> Workload {
    let yaml = format!(
        "instances: {instances}\nlocks_per_instance_per_min: {per_min}\nhold: {hold_ms}ms\nttl: {ttl_ms}ms\n\
         peak_multiplier: {peak}\nheadroom: {headroom}\n"
    );
    Workload::parse(&yaml, &[]).expect("a possible workload")
}

fn plan(workload: Workload) -> Plan {
    Plan::new(workload, Calibration::default()).expect("figures that fit")
}

/// Shards of both columns, on average and at the peak.
fn shards(plan: &Plan) -> [u64; 4] {
    let [spec, own] = [&plan.specification, &plan.palisade].map(|column| &column.figures);
    [spec.shards_avg.shards, spec.shards_peak.shards, own.shards_avg.shards, own.shards_peak.shards]
}

fn none_fewer(before: &Plan, after: &Plan) -> bool {
    shards(before).iter().zip(shards(after)).all(|(before, after)| *before <= after)
}

prop_compose! {
    /// Five times each of these still fits its counter. At most 10^5 × 1,000/min × 2,000 renewals ×
    /// 200 B × 30 days × 5 is 9 × 10^18 bytes of history, half of the range of 64 bits.
    fn any_workload()(
        instances in 1u64..100_000,
        per_min in 0.01f64..1_000.0,
        hold_ms in 1u64..1_000_000,
        ttl_ms in 1_000u64..86_400_000,
        peak in 1.0f64..20.0,
        headroom in 0.0f64..0.95,
    ) -> (u64, f64, u64, u64, f64, f64) {
        (instances, per_min, hold_ms, ttl_ms, peak, headroom)
    }
}

proptest! {
    #[test]
    fn more_load_never_needs_fewer_shards(
        (instances, per_min, hold, ttl, peak, headroom) in any_workload(),
        more in 1.0f64..5.0,
    ) {
        let before = plan(workload(instances, per_min, hold, ttl, peak, headroom));
        for after in [
            workload((instances as f64 * more).ceil() as u64, per_min, hold, ttl, peak, headroom),
            workload(instances, per_min * more, hold, ttl, peak, headroom),
            workload(instances, per_min, (hold as f64 * more).ceil() as u64, ttl, peak, headroom),
            workload(instances, per_min, hold, ttl, peak * more, headroom),
        ] {
            let after = plan(after);
            prop_assert!(none_fewer(&before, &after), "{:?} then {:?}", shards(&before), shards(&after));
        }
    }

    #[test]
    fn more_headroom_never_needs_fewer_shards(
        (instances, per_min, hold, ttl, peak, headroom) in any_workload(),
        part in 0.0f64..1.0,
    ) {
        let less = plan(workload(instances, per_min, hold, ttl, peak, headroom * part));
        let more = plan(workload(instances, per_min, hold, ttl, peak, headroom));
        prop_assert!(none_fewer(&less, &more), "{:?} then {:?}", shards(&less), shards(&more));
    }

    #[test]
    fn the_fewest_shards_carry_the_load_and_one_less_does_not(
        (instances, per_min, hold, ttl, peak, headroom) in any_workload(),
        renewals_per_s in 100.0f64..100_000.0,
    ) {
        let workload = workload(instances, per_min, hold, ttl, peak, headroom);
        let rates = Rates::of(&workload).at_peak(peak);
        for shared_leases in [false, true] {
            let capacity = LeaderCapacity { writes_per_s: 10_000.0, renewals_per_s, shared_leases };
            let shards = capacity.shards(&rates, headroom).expect("far below 2^53");
            let usable = 1.0 - headroom;
            prop_assert!(capacity.utilisation(&rates, shards) <= usable * (1.0 + 1e-6));
            prop_assert!(shards == 1 || capacity.utilisation(&rates, shards - 1) > usable * (1.0 - 1e-6));
        }
    }

    #[test]
    fn leases_never_need_more_than_locks_renewed_alone(
        (instances, per_min, hold, ttl, peak, headroom) in any_workload(),
    ) {
        let plan = plan(workload(instances, per_min, hold, ttl, peak, headroom));
        let (spec, own) = (&plan.specification.figures, &plan.palisade.figures);
        // With the same capacity per leader, as assumed.
        prop_assert!(own.shards_peak.shards <= spec.shards_peak.shards);
        prop_assert!(own.renew_per_s <= spec.renew_per_s && own.peak_renew_per_s <= spec.peak_renew_per_s);
        prop_assert!(own.renewal_share <= spec.renewal_share + 1e-12);
    }

    #[test]
    fn figures_agree_with_each_other(
        (instances, per_min, hold, ttl, peak, headroom) in any_workload(),
        sizing in prop_oneof![Just(Sizing::Peak), Just(Sizing::Average)],
    ) {
        let mut workload = workload(instances, per_min, hold, ttl, peak, headroom);
        workload.sizing = sizing;
        let plan = plan(workload);
        for column in [&plan.specification, &plan.palisade] {
            let f = &column.figures;
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
            prop_assert!(close(f.acquire_per_s + f.renew_per_s + f.release_per_s, f.writes_per_s));
            prop_assert!(close(f.active_locks / f.acquire_per_s, plan.workload.hold_s));
            prop_assert!(close(f.peak_acquire_per_s, f.acquire_per_s * peak));
            prop_assert!(f.shards_avg.shards <= f.shards_peak.shards);
            prop_assert!(f.shards_peak.without_headroom <= f.shards_peak.shards);
            prop_assert!(f.peak_writes_per_s >= f.writes_per_s * (1.0 - 1e-9));
            prop_assert_eq!(f.nodes_total, f.shards * u64::from(plan.workload.nodes_per_shard));
            prop_assert_eq!(f.storage_bytes_total, f.active_bytes + f.history_bytes_total);
            let shards: Vec<u64> = column.growth.months.iter().map(|month| month.shards_peak).collect();
            prop_assert!(shards.is_sorted());
            // A plan fits exactly if all tests that must hold do hold.
            prop_assert_eq!(column.fit.fits, column.fit.reasons.is_empty());
        }
        prop_assert!(close_to_planned(&plan));
    }

    #[test]
    fn any_numbers_give_a_plan_or_an_error_and_no_panic(
        instances in prop_oneof![0u64..10, 0..=1u64 << 53],
        per_min in prop_oneof![0.0f64..10.0, 0.0..1e300],
        hold_s in prop_oneof![0u64..10, 0..=10_000_000_000u64],
        capacity in prop_oneof![1e-9f64..10.0, 0.0..1e300],
        days in 0u64..100_000,
    ) {
        let yaml = format!(
            "instances: {instances}\nlocks_per_instance_per_min: {per_min}\nhold: {hold_s}s\nleader_capacity: {capacity}\n\
             history_days: {days}\n"
        );
        let outcome: Result<Plan, PlanError> =
            Workload::parse(&yaml, &[]).and_then(|workload| Plan::new(workload, Calibration::default()));
        if let Ok(plan) = outcome {
            let shown = palisade_planner::text(&plan, &[]) + &palisade_planner::svg(&plan);
            prop_assert!(!shown.contains("NaN") && !shown.contains("inf "), "{}", shown);
        }
    }
}

/// The load for which the planned shards last is at least today's.
fn close_to_planned(plan: &Plan) -> bool {
    [&plan.specification, &plan.palisade]
        .iter()
        .all(|column| column.growth.load_until_next_shard >= 1.0)
}
