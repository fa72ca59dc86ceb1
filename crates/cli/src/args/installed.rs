//! The verbs that an installation is made with: completions, and pages of the manual.

use clap::Args;
use clap_complete::Shell;
use std::path::PathBuf;

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
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManPages {
    /// The directory for the pages. It is made if it is missing
    pub dir: PathBuf,
}
