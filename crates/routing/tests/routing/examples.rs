//! The commented examples in `config/` parse, and equal the generator's output.

use palisade_routing::*;
use std::path::PathBuf;

fn example(name: &str) -> (ClusterConfig, Vec<String>) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config").join(name);
    ClusterConfig::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_example_parses() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../config");
    let names: Vec<String> = std::fs::read_dir(dir)
        .expect("config/")
        .map(|file| file.expect("file").file_name().into_string().expect("UTF-8"))
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    assert!(names.len() >= 6, "{names:?}");
    for name in names {
        example(&name);
    }
}

#[test]
fn the_examples_equal_the_generators_output() {
    let loopback = Addresses::Loopback { base_port: 7400 };
    let hosts = Addresses::Hosts { domain: "palisade.example".into(), port: 7400 };
    use NodeLayout::{Dedicated, Shared};
    let cases = [
        ("dev.yaml", ClusterConfig::dev(4, 3, 7400)),
        ("small-3x1.yaml", ClusterConfig::generate("small", 1, 3, Shared(3), 0, 2, &loopback)),
        ("medium-5x1.yaml", ClusterConfig::generate("medium", 1, 5, Shared(5), 3, 2, &loopback)),
        (
            "large-5x4.yaml",
            ClusterConfig::generate("large-shared", 4, 5, Shared(5), 3, 2, &loopback),
        ),
        (
            "large-20x4.yaml",
            ClusterConfig::generate("large-dedicated", 4, 5, Dedicated, 5, 2, &loopback),
        ),
        (
            "hyperscale-40.yaml",
            ClusterConfig::generate("hyperscale", 40, 5, Dedicated, 5, 4, &hosts),
        ),
    ];
    for (name, generated) in cases {
        let (config, warnings) = example(name);
        assert_eq!(config, generated.expect(name), "{name}");
        // Only the example for many hosts listens beyond its machine, with locks and with metrics.
        let expected = if name == "hyperscale-40.yaml" { 2 } else { 0 };
        assert_eq!(warnings.len(), expected, "{name}: {warnings:?}");
    }
}
