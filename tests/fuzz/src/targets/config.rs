//! Files that people write: the cluster file and the workload file.

use planner::{Calibration, EmitOptions, Plan, Workload};
use routing::ClusterConfig;

/// An accepted cluster file can be placed, and its own text reads as the same configuration.
pub(super) fn cluster_yaml(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let Ok((config, _)) = ClusterConfig::parse(text) else { return false };
    let (again, _) = ClusterConfig::parse(&config.to_yaml()).expect("its own text");
    assert_eq!(again, config, "does not come back the same");
    assert_eq!(again.fingerprint(), config.fingerprint());
    let map = config.shard_map();
    assert_eq!(map.shards().count(), config.shards as usize);
    true
}

/// An accepted workload can be planned for, or is refused with the key to change. The plan can be
/// shown in every form.
pub(super) fn workload_yaml(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let calibration = Calibration::default();
    if let Ok(read) = Calibration::parse(text) {
        let again = Calibration::parse(&read.to_yaml()).expect("its own text");
        assert_eq!(again, read, "does not come back the same");
    }
    let Ok(workload) = Workload::parse(text, &[]) else { return false };
    let Ok(plan) = Plan::new(workload, calibration) else { return false };
    let Ok(compared) = planner::compare(&plan) else { return false };
    for told in [
        planner::text(&plan, &compared),
        planner::json(&plan, &compared).to_string(),
        planner::svg(&plan),
    ] {
        assert!(!told.is_empty() && !told.contains("NaN"), "{told}");
    }
    if let Ok((config, yaml)) =
        planner::emit(&plan, &EmitOptions { nodes: Some(9), ..EmitOptions::default() })
    {
        let (again, _) = ClusterConfig::parse(&yaml).expect("a plan's cluster file");
        assert_eq!(again, config, "does not come back the same");
    }
    true
}
