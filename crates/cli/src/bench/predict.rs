//! `palisade bench --predict`: the prediction of the planner's model for a run, for comparison with
//! the run's result.

use super::args::Bench;
use crate::failure::{Exit, Failure};
use crate::output::{emit, print_json};
use crate::shown::{counted, one_line};
use capacity_sim::OneMachine;
use load::Mix;
use planner::EntryBytes;
use std::path::Path;

/// A fixed seed, so that the same run has the same prediction.
const SEED: u64 = 1;

/// Prints the prediction of the planner's model for these options.
///
/// # Errors
/// If the calibration cannot be read, or the model does not know such a load.
pub fn run(args: &Bench, calibration: &Path) -> Result<(), Failure> {
    if args.mix != Mix::AcquireRelease {
        let what = format!("the model does not know the mix {}", args.mix.as_str());
        return Err(Failure::new(Exit::Usage, "INVALID_ARGUMENT", what, "leave out --mix"));
    }
    let calibration = crate::plan::read_calibration(calibration)?;
    if !(0.0..calibration.cores as f64).contains(&args.taken_cores) {
        let what = format!(
            "others cannot take {} of {}",
            args.taken_cores,
            counted(calibration.cores, "core")
        );
        return Err(Failure::new(
            Exit::Usage,
            "INVALID_ARGUMENT",
            what,
            "use a --taken-cores from 0 to fewer than there are",
        ));
    }
    let (name_bytes, owner_bytes) = (args.name_bytes as u64, args.owner_bytes as u64);
    let setup = OneMachine {
        nodes: args.nodes,
        shards: args.shards,
        clients: args.clients,
        entry: EntryBytes { name_bytes, owner_bytes, metadata_bytes: 0 },
        taken_cores: args.taken_cores,
    };
    let run = capacity_sim::predict(&setup, &calibration, SEED);
    if args.json {
        print_json(&run);
        return Ok(());
    }
    emit(&format!(
        "expected of {}, {} and {} on one machine of {} ({})",
        counted(args.clients, "client"),
        counted(args.nodes, "node"),
        counted(args.shards, "shard"),
        counted(calibration.cores, "core"),
        one_line(&calibration.source)
    ));
    emit(&format!(
        "  {:.0} operations/s, p50 {:.2} ms, p99 {:.2} ms, {:.1} operations per entry, {:.0} syncs/s, disk {:.0} % busy",
        run.answered_per_s,
        run.p50_ms,
        run.p99_ms,
        run.operations_per_entry,
        run.leader.syncs_per_s,
        run.leader.disk * 100.0
    ));
    Ok(())
}
