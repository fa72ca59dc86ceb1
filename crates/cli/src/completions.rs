//! `palisade completions`: scripts that complete verbs, options and files in a shell.

use crate::args::{Cli, Completions};
use clap::{Command, CommandFactory};
use clap_complete::generate;

/// Prints the script.
pub fn run(args: &Completions) {
    let all = Cli::command();
    // clap_complete would offer hidden verbs, too.
    let verbs = all.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    let palisade = Command::new("palisade").version(env!("CARGO_PKG_VERSION"));
    let mut palisade = palisade.subcommands(verbs);
    let mut script = Vec::new();
    generate(args.shell, &mut palisade, "palisade", &mut script);
    crate::output::emit(String::from_utf8_lossy(&script).trim_end());
}
