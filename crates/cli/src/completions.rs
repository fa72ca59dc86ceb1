//! `palisade completions`: scripts that complete verbs, options and files in a shell.

use crate::args::Cli;
use clap::{Args, Command, CommandFactory};
use clap_complete::{Shell, generate};

#[derive(Debug, Args)]
#[command(after_help = "\
In bash, for one shell or for all:

  source <(palisade completions bash)
  palisade completions bash > ~/.local/share/bash-completion/completions/palisade

In zsh, save the output as _palisade in a directory of $fpath. In fish, save it as \
~/.config/fish/completions/palisade.fish. The Debian package has done this.")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

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
