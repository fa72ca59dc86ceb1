//! `palisade man`: a page of the manual for each verb. Packages are built with it.

use crate::args::{Cli, ManPages};
use crate::failure::{Exit, Failure};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use std::io;
use std::path::Path;

/// Writes `palisade.1`, `palisade-node.1` and so on.
///
/// # Errors
/// If the directory cannot be written.
pub fn run(args: &ManPages) -> Result<(), Failure> {
    let mut palisade = Cli::command().disable_help_subcommand(true);
    palisade.build();
    let written = std::fs::create_dir_all(&args.dir).and_then(|()| write(&palisade, &args.dir));
    written.map_err(|error| {
        let message = format!("cannot write the pages to {}: {error}", args.dir.display());
        Failure::new(Exit::Error, "MAN", message, "name a directory that can be written")
    })
}

fn write(command: &Command, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or(command.get_name());
    let source = concat!("Palisade ", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).section("1").source(source).manual("Palisade");
    let mut page = Vec::new();
    man.render(&mut page)?;
    std::fs::write(dir.join(format!("{name}.1")), page)?;
    let mut verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    verbs.try_for_each(|verb| write(verb, dir))
}
