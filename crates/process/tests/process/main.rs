//! The figures of a process without a free descriptor. This test has a program of its own, because
//! meanwhile no other test in its process could open a file.

#![cfg(target_os = "linux")]

use prometheus::Registry;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::collections::BTreeMap;

fn figures(registry: &Registry) -> BTreeMap<String, f64> {
    let families = registry.gather();
    let figure = |one: &prometheus::proto::MetricFamily| {
        let metric = &one.get_metric()[0];
        let counter = metric.get_counter().get_value();
        (one.name().to_owned(), metric.get_gauge().get_value().max(counter))
    };
    families.iter().map(figure).collect()
}

#[test]
fn this_process_has_figures_also_when_it_is_out_of_descriptors() {
    let registry = Registry::new();
    palisade_process::register(&registry).expect("register the metrics");
    let is_whole = |all: &BTreeMap<String, f64>| {
        assert!(all["process_resident_memory_bytes"] > 1_048_576.0, "{all:?}");
        assert!(all["process_threads"] >= 1.0, "{all:?}");
        assert!(all["process_start_time_seconds"] > 1_600_000_000.0, "{all:?}");
    };
    let all = figures(&registry);
    is_whole(&all);
    let open = all["process_open_fds"];
    assert!(open >= 3.0 && all["process_max_fds"] > open, "{all:?}");

    let before = getrlimit(Resource::Nofile);
    let none_left = Rlimit { current: Some(3), ..before };
    setrlimit(Resource::Nofile, none_left).expect("lower the limit");
    let all = figures(&registry);
    setrlimit(Resource::Nofile, before).expect("raise the limit");
    is_whole(&all);
    assert_eq!((all["process_open_fds"], all["process_max_fds"]), (3.0, 3.0));
}
