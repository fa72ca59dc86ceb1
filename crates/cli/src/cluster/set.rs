//! `palisade cluster repair`, `pause` and `resume`: settings of the whole cluster.

use super::plan;
use crate::args::ClusterSet;
use crate::duration::show_ms;
use crate::failure::Failure;
use crate::output::{emit, print_json};
use crate::verbs;
use client::{PlanChange, Setting, SettingChange};
use wire::json;

/// Changes a setting, or shows what that would lead to.
///
/// # Errors
/// If the value is refused, or no leader takes the change.
pub(super) async fn run(set: &ClusterSet, setting: Setting) -> Result<(), Failure> {
    let change = SettingChange { setting: Some(setting) };
    if set.planning.dry_run {
        return plan::show(&set.remote, PlanChange::Setting(change), &in_words(setting)).await;
    }
    let client = verbs::connect(&set.remote.gateways)?;
    let version = client.change_setting(change, set.planning.at_version).await?;
    if set.remote.json {
        print_json(&json::Changed { version });
        return Ok(());
    }
    emit(&format!("{}; topology version {version}", in_words(setting)));
    Ok(())
}

/// What a setting means.
fn in_words(setting: Setting) -> String {
    match setting {
        Setting::RepairAfterS(seconds) => repair_in_words((seconds != 0).then_some(seconds)),
        Setting::Paused(true) => "jobs and repairs rest".to_owned(),
        Setting::Paused(false) => "jobs and repairs go on".to_owned(),
    }
}

/// When the replicas of a silent node are replaced.
pub(super) fn repair_in_words(after_s: Option<u64>) -> String {
    match after_s {
        Some(seconds) => format!(
            "the replicas of a node that is silent for {} are replaced without a verb",
            show_ms(seconds.saturating_mul(1_000))
        ),
        None => "no replica is replaced without a verb".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_says_what_follows_from_it() {
        let repair = in_words(Setting::RepairAfterS(1_800));
        assert!(repair.contains("silent for 30m 00s are replaced"), "{repair}");
        assert_eq!(in_words(Setting::RepairAfterS(0)), repair_in_words(None));
        assert_eq!(in_words(Setting::Paused(true)), "jobs and repairs rest");
    }
}
