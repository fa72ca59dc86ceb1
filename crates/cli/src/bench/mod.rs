//! `palisade bench`: the load generator and the calibration of the crate `load`, on the command
//! line.

pub mod args;
mod predict;
mod report;

use crate::failure::{Exit, Failure, one_line};
use crate::output::{print_json, wall_ms};
use crate::serve::told_to_stop;
use crate::shown::date_time;
use args::Bench;
use load::calibrate::{self, CalibrateError, CalibrateOptions};
use load::{Caller, LoadError, Measured, Report};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::Path;

/// Runs `palisade bench`: a load, a prediction or a calibration.
pub async fn run(args: &Bench) -> Result<(), Failure> {
    if let Some(out) = &args.calibrate {
        return calibrate(args, out).await;
    }
    let options = args.options(rand::random())?;
    if let Some(calibration) = &args.predict {
        return predict::run(args, calibration);
    }
    // The status call finds out before the load whether a gateway answers.
    let client = crate::verbs::connect(&args.gateways)?;
    client.cluster_status().await?;
    let callers = Caller::connect(&options).map_err(|error| failure(args, error))?;
    let live = std::io::stderr().is_terminal() && !args.json;
    let measured = load::run(&options, &callers, &client, live, told_to_stop()).await;
    let measured = measured.map_err(|error| failure(args, error))?;
    if measured.stats.operations() == 0 {
        return Err(nothing_answered(&measured));
    }
    let report = Report::new(&options, &measured);
    if args.json {
        print_json(&report);
    } else {
        report::print(&report);
    }
    Ok(())
}

async fn calibrate(args: &Bench, out: &Path) -> Result<(), Failure> {
    let failed = |what: String, next: &str| Failure::new(Exit::Error, "CALIBRATION", what, next);
    let program = std::env::current_exe()
        .map_err(|error| {
            failed(format!("this program cannot be found: {error}"), "run it by its path")
        })?
        .into_os_string();
    // The child starts by way of `__exec`, so that it is killed with this process, however this
    // process ends.
    let parent = std::process::id().to_string();
    let before = ["__exec", "--parent", &parent, "--"].map(OsString::from);
    let now = date_time(wall_ms());
    let options = CalibrateOptions {
        out: out.to_owned(),
        data_dir: args.data_dir.clone(),
        palisade: [program.clone()].into_iter().chain(before).chain([program]).collect(),
        host: nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default(),
        today: now.split(' ').next().unwrap_or(&now).to_owned(),
    };
    let outcome = calibrate::run(&options, told_to_stop()).await;
    outcome.map_err(|error: CalibrateError| failed(error.to_string(), error.next()))
}

fn failure(args: &Bench, error: LoadError) -> Failure {
    let what = error.to_string();
    match error {
        LoadError::NoEndpoint => {
            let given = args.gateways.endpoint.as_deref().unwrap_or_default();
            let what = format!("{given:?} names no endpoint");
            let next = "write --endpoint host:port, as in 127.0.0.1:7400";
            Failure::new(Exit::Usage, "INVALID_ARGUMENT", what, next)
        }
        LoadError::Client(error) => error.into(),
        LoadError::NotPrepared { code, .. } => {
            let next = "see `palisade cluster status`; use fewer --names or --clients";
            Failure::new(Exit::Error, &code, what, next)
        }
        LoadError::Interrupted => Failure::new(
            Exit::Signal(libc::SIGINT as u8),
            "INTERRUPTED",
            what,
            "run it again, with a shorter --duration",
        ),
    }
}

fn nothing_answered(measured: &Measured) -> Failure {
    let errors = measured.stats.errors.iter().map(|(kind, count)| {
        let example = measured.stats.examples.get(kind).map_or("", String::as_str);
        format!("; {count} × {kind}: {}", one_line(example))
    });
    let what = format!("nothing was answered in the measured time{}", errors.collect::<String>());
    Failure::new(
        Exit::Error,
        "NOTHING_ANSWERED",
        what,
        "look at the cluster: palisade cluster status",
    )
}
