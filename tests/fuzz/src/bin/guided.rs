//! Runs libFuzzer on the target that `PALISADE_FUZZ_TARGET` names. `scripts/fuzz` starts it.

#![no_main]

use palisade_fuzz::Target;
use std::sync::LazyLock;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("PALISADE_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| {
        panic!("PALISADE_FUZZ_TARGET={name} is no target: see scripts/fuzz --list")
    })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    TARGET.check(input);
});
