//! Generates the generated part of the corpus again.

use palisade_fuzz::{TARGETS, corpus};

fn main() -> std::io::Result<()> {
    for target in TARGETS {
        let dir = corpus::dir(target.name);
        std::fs::create_dir_all(&dir)?;
        for name in
            corpus::committed(target.name).keys().filter(|name| !name.starts_with("regression-"))
        {
            std::fs::remove_file(dir.join(name))?;
        }
        let inputs = corpus::generate(target.name);
        println!("{}: {} inputs", target.name, inputs.len());
        for (name, input) in inputs {
            std::fs::write(dir.join(name), input)?;
        }
    }
    Ok(())
}
