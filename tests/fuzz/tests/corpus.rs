//! Runs every target on its corpus and on fixed mutations of it.

use palisade_fuzz::mutate::{Rng, mutate};
use palisade_fuzz::{TARGETS, Target, corpus};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// The number of mutations of each target. `scripts/fuzz` goes further with coverage guidance.
const MUTATIONS: usize = 10_000;

fn throw(name: &str) {
    let target = Target::named(name).expect("a target");
    let inputs: Vec<(String, Vec<u8>)> = corpus::committed(name).into_iter().collect();
    assert!(inputs.len() >= 4, "the corpus of {name} has only {} inputs", inputs.len());
    for (file, input) in &inputs {
        let taken = check(target, input);
        assert!(
            taken || file.starts_with("regression-"),
            "{name} does not take {file} any more: if that is right, make the corpus anew (see \
             tests/fuzz/src/corpus/)"
        );
    }
    let mut rng = Rng::new(
        name.bytes().fold(1, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into())),
    );
    let mut taken = 0;
    for _ in 0..MUTATIONS {
        let (_, input) = &inputs[rng.below(inputs.len())];
        let (_, other) = &inputs[rng.below(inputs.len())];
        let mut input = input.clone();
        mutate(&mut rng, &mut input, other);
        taken += usize::from(check(target, &input));
    }
    println!("{name}: {taken} of {MUTATIONS} mutations taken");
    assert!(
        (1..MUTATIONS).contains(&taken),
        "{name} takes {taken} of {MUTATIONS} mutations: do they reach it at all?"
    );
}

/// Runs [`Target::check`], and keeps an input that breaks a promise.
fn check(target: &Target, input: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| target.check(input))).unwrap_or_else(|_| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("find-{}", target.name));
        std::fs::write(&file, input).expect("a place to keep it");
        panic!(
            "{} broke on {}: keep it as corpus/{}/regression-…",
            target.name,
            file.display(),
            target.name
        );
    })
}

macro_rules! thrown {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            throw(stringify!($name));
        })*

        #[test]
        fn every_target_is_thrown_at() {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

thrown! {
    operation_frame
    result_frame
    operate_request
    operate_response
    route_table
    peer_frame
    snapshot_chunk
    role
    pem
    command
    log_entry
    tenure
    table_snapshot
    table_records
    group_entry
    proposal
    topology_state
    topology_delta
    recovered
    stored_record
    journal_record
    cluster_yaml
    workload_yaml
    policy_yaml
    tokens_yaml
}
