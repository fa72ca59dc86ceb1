//! `palisade cluster upgrade`: which builds the nodes run, and how far the groups are; and the step
//! that ends an upgrade, after which the build before cannot be used.

use crate::args::{ClusterUpgrade, UpgradeFinalize, UpgradeStep};
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_json, print_table};
use crate::shown::shown;
use crate::verbs;
use client::Client;
use serde::Serialize;
use std::time::Duration;
use tokio::time::Instant;
use wire::json::{Build, GroupLevel, Upgrade};

/// How often the groups are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// An upgrade with what to do next, as it is printed.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    upgrade: &'a Upgrade,
    next: String,
}

/// What an end of the upgrade would do.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Plan {
    /// The active level.
    from: u32,
    /// The level that is to be active.
    to: u32,
    /// What that brings. Empty if this program does not know the level.
    brings: &'static str,
    dry_run: bool,
}

/// Runs `palisade cluster upgrade`.
///
/// # Errors
/// If no gateway answers, or a step is refused or does not end in time.
pub(super) async fn run(args: &ClusterUpgrade) -> Result<(), Failure> {
    if let Some(UpgradeStep::Finalize(args)) = &args.step {
        return finalize(args).await;
    }
    let upgrade = look(&verbs::connect(&args.remote.gateways)?, 0).await?;
    if args.remote.json {
        print_json(&Told { upgrade: &upgrade, next: next(&upgrade) });
    } else {
        print(&upgrade);
    }
    Ok(())
}

async fn look(client: &Client, at_least_version: u64) -> Result<Upgrade, client::Error> {
    let topology = client.topology(at_least_version).await?;
    Ok(Upgrade::new(&topology, &client.cluster_status().await?))
}

fn print(upgrade: &Upgrade) {
    let all = match upgrade.level_of_all {
        Some(level) => format!("every node knows level {level}"),
        None => "not every node has told which levels it knows".to_owned(),
    };
    emit(&format!("level {} is active; {all}", upgrade.level));
    let header = ["node", "version", "levels"].map(String::from).to_vec();
    let rows: Vec<_> = std::iter::once(header).chain(upgrade.nodes.iter().map(row)).collect();
    print_table(&rows);
    let header = ["group", "level"].map(String::from).to_vec();
    let group = |group: &GroupLevel| {
        let level = group.level.map_or_else(|| "NO LEADER ANSWERS".into(), |it| it.to_string());
        vec![name(group), level]
    };
    let rows: Vec<_> = std::iter::once(header).chain(upgrade.groups.iter().map(group)).collect();
    print_table(&rows);
    emit(&format!("next: {}", next(upgrade)));
}

fn row(node: &Build) -> Vec<String> {
    let levels = match (node.level_min, node.level_max) {
        (Some(min), Some(max)) if min == max => min.to_string(),
        (Some(min), Some(max)) => format!("{min} to {max}"),
        _ => "-".to_owned(),
    };
    let binary = if node.binary.is_empty() { "-".to_owned() } else { shown(&node.binary) };
    vec![node.node.to_string(), binary, levels]
}

fn name(group: &GroupLevel) -> String {
    group.shard.map_or_else(|| "topology".to_owned(), |shard| shard.to_string())
}

/// What to do next.
fn next(upgrade: &Upgrade) -> String {
    let Upgrade { level, level_of_all, .. } = upgrade;
    let highest = upgrade.level_of_any();
    match level_of_all {
        None => format!(
            "start {}, or wait until the topology has heard of what was started",
            nodes(&upgrade.without(1))
        ),
        Some(known) if known > level => format!(
            "once the new build has proved itself, `palisade cluster upgrade finalize` activates \
             level {known}; the build before cannot be used after that"
        ),
        Some(_) if highest > *level => {
            format!(
                "upgrade {}, so that all know level {highest}",
                nodes(&upgrade.without(highest))
            )
        }
        Some(_) if upgrade.below().next().is_some() => format!(
            "wait for {}: it reaches level {level} as soon as it has a leader",
            groups(upgrade.below())
        ),
        Some(_) => "nothing is to be done".to_owned(),
    }
}

fn nodes(ids: &[u64]) -> String {
    let list = in_words(ids.iter().map(u64::to_string).collect());
    if ids.len() == 1 { format!("node {list}") } else { format!("nodes {list}") }
}

fn groups<'a>(groups: impl Iterator<Item = &'a GroupLevel>) -> String {
    let word = |group: &GroupLevel| match group.shard {
        Some(shard) => format!("shard {shard}"),
        None => "the topology's group".to_owned(),
    };
    in_words(groups.map(word).collect())
}

/// `a`, `a and b`, or `a, b and c`.
fn in_words(words: Vec<String>) -> String {
    match words.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

/// The step that ends the upgrade. `None` if the highest level is active already.
///
/// # Errors
/// If a node runs a build that does not know the next level, or has not told.
fn plan(upgrade: &Upgrade, dry_run: bool) -> Result<Option<Plan>, Failure> {
    let (from, highest) = (upgrade.level, upgrade.level_of_any());
    let to = match upgrade.level_of_all {
        Some(known) if known > from => known,
        Some(_) if highest == from => return Ok(None),
        _ => {
            let old = upgrade.without(highest);
            let verb = if old.len() == 1 { "does" } else { "do" };
            let message = format!("{} {verb} not know level {highest}", nodes(&old));
            let next = "upgrade and start it, and then ask again; `palisade cluster upgrade` shows \
                        what each node runs";
            return Err(Failure::new(Exit::Error, "NOT_UPGRADED", message, next));
        }
    };
    let brings = topology::level(to).map_or("", |level| level.brings);
    Ok(Some(Plan { from, to, brings, dry_run }))
}

async fn finalize(args: &UpgradeFinalize) -> Result<(), Failure> {
    let (client, json) = (verbs::connect(&args.remote.gateways)?, args.remote.json);
    let before = look(&client, 0).await?;
    let plan = plan(&before, args.dry_run)?;
    let version = match &plan {
        Some(plan) if args.dry_run => {
            return told(json, plan, || {
                say_plan(plan);
                emit("nothing was done");
            });
        }
        Some(plan) => {
            if !json {
                say_plan(plan);
            }
            client.activate_level(plan.to).await?
        }
        None if args.dry_run => {
            let Upgrade { level, .. } = before;
            let plan = Plan { from: level, to: level, brings: "", dry_run: true };
            return told(json, &plan, || {
                emit(&format!("level {level} is active already: nothing would be done"));
            });
        }
        None => before.version,
    };
    if args.detach {
        let upgrade = look(&client, version).await?;
        return told(json, &Told { upgrade: &upgrade, next: next(&upgrade) }, || {
            emit(&format!("level {} is active; the groups reach it by themselves", upgrade.level));
        });
    }
    let upgrade = reached(&client, version, args).await?;
    told(json, &Told { upgrade: &upgrade, next: next(&upgrade) }, || {
        emit(&format!("done: level {} is active in every group", upgrade.level));
    })
}

fn say_plan(plan: &Plan) {
    let Plan { from, to, brings, .. } = plan;
    let brings = if brings.is_empty() { String::new() } else { format!(" ({brings})") };
    emit(&format!(
        "level {from} → {to}{brings}; a build that does not know level {to} cannot be used after this"
    ));
}

fn told(json: bool, document: &impl Serialize, say: impl FnOnce()) -> Result<(), Failure> {
    match json {
        true => print_json(document),
        false => say(),
    }
    Ok(())
}

/// Waits until every group has reached the active level. A gateway or a leader that is away for a
/// while ends no wait, because the groups go on without them.
///
/// # Errors
/// If it does not come in time.
async fn reached(
    client: &Client,
    version: u64,
    args: &UpgradeFinalize,
) -> Result<Upgrade, Failure> {
    let until = args.within.map(|within| Instant::now() + within);
    let mut said = String::new();
    loop {
        let is_late = until.is_some_and(|until| Instant::now() >= until);
        match look(client, version).await {
            Ok(upgrade) => {
                let below = groups(upgrade.below());
                if below.is_empty() {
                    return Ok(upgrade);
                }
                if is_late {
                    return Err(still_below(&below, upgrade.level));
                }
                if !args.remote.json && said != below {
                    emit(&format!("  still to come: {below}"));
                    said = below;
                }
            }
            Err(error) => {
                let passes =
                    error.is_retryable() || error.is_unreachable() || error.is_outcome_unknown();
                if is_late || !passes {
                    return Err(unseen(error));
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn still_below(below: &str, level: u32) -> Failure {
    let message =
        format!("level {level} is active, and these have not reached it in time: {below}");
    let next = "they reach it as soon as they have a leader: look with `palisade cluster upgrade`";
    Failure::new(Exit::Error, "NOT_REACHED", message, next)
}

fn unseen(error: client::Error) -> Failure {
    let failure = Failure::from(error);
    let message = format!("the level is active, and the groups were not seen: {}", failure.message);
    let next = format!("{}; then look with `palisade cluster upgrade`", failure.next);
    Failure { message, next, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upgrade(level: u32, known: &[Option<u32>], reached: &[bool]) -> Upgrade {
        let build = |(at, level_max): (usize, &Option<u32>)| Build {
            node: at as u64 + 1,
            binary: "0.2.0".into(),
            level_min: level_max.map(|_| 1),
            level_max: *level_max,
        };
        let group = |(at, reached): (usize, &bool)| GroupLevel {
            shard: (at > 0).then_some(at as u32),
            level: Some(if *reached { level } else { 1 }),
            reached: *reached,
        };
        Upgrade {
            version: 7,
            level,
            level_of_all: known.iter().copied().min().flatten(),
            nodes: known.iter().enumerate().map(build).collect(),
            groups: reached.iter().enumerate().map(group).collect(),
        }
    }

    #[test]
    fn the_verb_says_what_to_do_next() {
        let next = |level, known: &[Option<u32>], reached: &[bool]| {
            super::next(&upgrade(level, known, reached))
        };
        let silent = next(1, &[Some(2), None], &[true]);
        assert!(silent.starts_with("start node 2, or wait"), "{silent}");
        let mixed = next(1, &[Some(2), Some(1), Some(1)], &[true]);
        assert_eq!(mixed, "upgrade nodes 2 and 3, so that all know level 2");
        let ready = next(1, &[Some(2), Some(2)], &[true]);
        assert!(ready.contains("`palisade cluster upgrade finalize` activates level 2"), "{ready}");
        let wait = next(2, &[Some(2), Some(2)], &[false, true, false]);
        assert!(wait.starts_with("wait for the topology's group and shard 2"), "{wait}");
        assert_eq!(next(2, &[Some(2), Some(2)], &[true]), "nothing is to be done");
    }

    #[test]
    fn an_upgrade_ends_only_once_every_node_runs_the_new_build() {
        let ready = plan(&upgrade(1, &[Some(2), Some(2)], &[true]), true).unwrap().unwrap();
        assert_eq!((ready.from, ready.to, ready.dry_run), (1, 2, true));
        assert!(ready.brings.contains("last change of members"), "{}", ready.brings);
        assert_eq!(plan(&upgrade(2, &[Some(2), Some(2)], &[true]), false).unwrap(), None);
        let mixed = plan(&upgrade(1, &[Some(2), Some(1)], &[true]), false).unwrap_err();
        assert_eq!((mixed.code.as_str(), mixed.exit), ("NOT_UPGRADED", Exit::Error));
        assert_eq!(mixed.message, "node 2 does not know level 2");
        let silent = plan(&upgrade(1, &[Some(2), None], &[true]), false).unwrap_err();
        assert_eq!(silent.code, "NOT_UPGRADED");
        // Part of the nodes is one release ahead of the others.
        let ahead = plan(&upgrade(1, &[Some(3), Some(2)], &[true]), false).unwrap().unwrap();
        assert_eq!((ahead.to, ahead.brings.is_empty()), (2, false));
    }
}
