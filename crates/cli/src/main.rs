//! The palisade binary: the servers, and a verb for each operation of a client.

mod args;
mod bench;
mod cert;
mod certificates;
mod cluster;
mod cluster_file;
mod completions;
mod dev;
mod duration;
mod end;
mod exposure;
mod failure;
mod heap;
mod lock;
mod logging;
mod man;
mod output;
mod pages;
mod plan;
mod policy;
mod profiles;
mod queue;
mod serve;
mod sessions;
mod shown;
mod status;
mod systemd;
mod top;
mod verbs;
mod voice;
mod watch;

use args::Command;
use failure::{Exit, Failure};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;
use tempfile::TempDir;

/// Time limit for closing the store of a server that ends.
const STORE_CLOSES_WITHIN: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // Help, the version, and errors for people.
        Err(error) if !error.use_stderr() || !asks_for_json(std::env::args_os()) => error.exit(),
        Err(error) => {
            Failure::of_usage(&error).print(true);
            return Exit::Usage.into();
        }
    };
    match &cli.command {
        Command::Exec(args) => return lock::exec::run(args),
        Command::Guard(args) => return lock::guard::run(args),
        Command::Lock(args) => return lock::run(args),
        _ => {}
    }
    logging::start(&cli.command);
    let serves = matches!(cli.command, Command::Dev(_) | Command::Node(_) | Command::Gateway(_));
    if serves {
        heap::give_back_freed_blocks();
        serve::raise_descriptor_limit();
    }
    let mut builder = match serves {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    if let Command::Node(_) = cli.command {
        // Shards have the other half (`shard_threads`). On few cores, each further thread is one
        // more to wake for each message.
        builder.worker_threads(
            std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        );
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return Exit::Error.into();
        }
    };
    if serves {
        // Before anything else runs, because a signal without a handler ends the process.
        let _within = runtime.enter();
        match logging::Signals::listen() {
            Ok(signals) => drop(runtime.spawn(logging::follow_signals(signals))),
            Err(error) => {
                tracing::warn!(%error, "SIGUSR1 and SIGUSR2 will not change how much is logged");
            }
        }
    }
    let mut temporary = None;
    let outcome = runtime.block_on(run(&cli.command, &mut temporary));
    match &cli.command {
        // The store closes with the last task that has a handle to it. If the process exits
        // earlier, RocksDB's own threads find its statics gone and abort the process. The wait is
        // limited, because a disk may hang.
        Command::Node(_) | Command::Dev(_) => runtime.shutdown_timeout(STORE_CLOSES_WITHIN),
        // No background work of the other commands needs a wait.
        _ => runtime.shutdown_background(),
    }
    // Only now, because a store that is still open would write into the directory meanwhile.
    if let Some(dir) = temporary {
        dev::remove(dir);
    }
    if serves {
        logging::say_last_sums();
    }
    let code = match outcome {
        Ok(()) => 0,
        Err(failure) if serves => {
            voice::last_words(failure.for_people(), end::WORDS_WITHIN);
            failure.exit.code()
        }
        Err(failure) => {
            failure.print(wants_json(&cli.command));
            failure.exit.code()
        }
    };
    voice::flush(end::WORDS_WITHIN);
    if let Command::Node(_) | Command::Dev(_) = &cli.command {
        end::now(code);
    }
    ExitCode::from(code)
}

async fn run(command: &Command, temporary: &mut Option<TempDir>) -> Result<(), Failure> {
    match command {
        Command::Dev(args) => dev::run(args, temporary).await,
        Command::Node(args) => serve::node(args).await,
        Command::Gateway(args) => serve::gateway(args).await,
        Command::Acquire(args) => verbs::acquire(args).await,
        Command::Renew(args) => verbs::renew(args).await,
        Command::Check(args) => verbs::check(args).await,
        Command::Release(args) => verbs::release(args).await,
        Command::History(args) => verbs::history(args).await,
        Command::Ls(args) => verbs::list(args).await,
        Command::Watch(args) => watch::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Break(args) => verbs::break_lock(args).await,
        Command::Session(args) => sessions::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::Plan(args) => plan::run(args),
        Command::Cert(args) => cert::run(args),
        Command::Cluster(verb) => cluster::run(verb).await,
        Command::Policy(verb) => policy::run(verb),
        Command::Completions(args) => {
            completions::run(args);
            Ok(())
        }
        Command::Man(args) => man::run(args),
        Command::Lock(_) | Command::Guard(_) | Command::Exec(_) => {
            unreachable!("needs no runtime of ours")
        }
    }
}

/// Whether `--json` is on a command line that could not be parsed. Arguments after `--` belong to
/// another command.
fn asks_for_json(args: impl Iterator<Item = OsString>) -> bool {
    args.take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

/// Whether standard output belongs to this program and another program reads it.
fn wants_json(command: &Command) -> bool {
    match command {
        Command::Acquire(args) => args.remote.json,
        Command::Renew(args) => args.remote.json,
        Command::Check(args) => args.remote.json,
        Command::Release(args) => args.remote.json,
        Command::History(args) => args.remote.json,
        Command::Ls(args) => args.remote.json,
        Command::Watch(args) => args.remote.json,
        Command::Break(args) => args.remote.json,
        Command::Session(args) => args.remote().json,
        Command::Bench(args) => args.json,
        Command::Plan(args) => args.json,
        Command::Cluster(verb) => verb.json(),
        Command::Dev(_)
        | Command::Node(_)
        | Command::Gateway(_)
        | Command::Lock(_)
        | Command::Top(_)
        | Command::Cert(_)
        | Command::Policy(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Guard(_)
        | Command::Exec(_) => false,
    }
}
