//! Tests of the command line: what it takes, and what it says about a mistake.

use super::*;

#[test]
fn the_command_line_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn an_empty_variable_is_as_none_for_every_argument_that_has_one() {
    fn variables(command: &clap::Command) -> Vec<OsString> {
        let own = command.get_arguments().filter_map(|arg| arg.get_env().map(OsStr::to_owned));
        own.chain(command.get_subcommands().flat_map(variables)).collect()
    }
    let all = variables(&Cli::command());
    assert!(all.len() >= 5 && all.iter().any(|name| name == "PALISADE_OWNER"), "{all:?}");
    assert_eq!(variables(&without_empty_variables(Cli::command(), &|_| None)), all);
    assert_eq!(variables(&without_empty_variables(Cli::command(), &|_| Some("x".into()))), all);
    let none: [OsString; 0] = [];
    assert_eq!(
        variables(&without_empty_variables(Cli::command(), &|_| Some(OsString::new()))),
        none
    );
}

#[test]
fn a_server_listens_on_names_and_addresses_and_on_nothing_else() {
    for good in
        ["localhost:7400", "127.0.0.1:0", "[::1]:7400", "0.0.0.0:7400", "node-1.example:7400"]
    {
        assert_eq!(address(good), Ok(good.to_owned()));
        assert!(Cli::try_parse_from(["palisade", "dev", "--listen", good]).is_ok(), "{good}");
    }
    for bad in ["localhost", "::1:7400", "http://localhost:7400", "localhost:99999", ":7400", ""] {
        assert!(address(bad).is_err(), "{bad}");
    }
}

#[test]
fn lock_takes_a_command_after_two_dashes_only() {
    let cli =
        Cli::try_parse_from(["palisade", "lock", "a", "--ttl", "5s", "--", "sh", "-c", "exit 3"])
            .unwrap();
    let Command::Lock(lock) = cli.command else { panic!("lock was written") };
    assert_eq!((lock.ttl, lock.command.len()), (5_000, 3));
    assert!(Cli::try_parse_from(["palisade", "lock", "a", "sh"]).is_err());
    assert!(Cli::try_parse_from(["palisade", "lock", "a", "--"]).is_err());
}

#[test]
fn the_guard_gets_the_command_line_of_lock_as_it_was_written() {
    use std::os::unix::ffi::OsStringExt;
    let odd = OsString::from_vec(vec![b'c', 0xe9]);
    let words = ["lock", "a", "--ttl", "5s", "--", "sh", "--", "--json"].map(OsString::from);
    let words: Vec<OsString> = words.into_iter().chain([odd]).collect();
    let start = [
        "palisade",
        "__guard",
        "--control",
        "7",
        "--front",
        "2",
        "--group",
        "2",
        "--at-start",
        "1.0.0",
        "--",
    ];
    let line = start.map(OsString::from).into_iter().chain(words.clone());
    let Command::Guard(guard) = Cli::try_parse_from(line).unwrap().command else {
        panic!("__guard was written")
    };
    assert_eq!(guard.words, words);
    let again = std::iter::once("palisade".into()).chain(guard.words);
    let Command::Lock(lock) = Cli::try_parse_from(again).unwrap().command else {
        panic!("lock was written")
    };
    assert_eq!(lock.command, words[5..]);
}

#[test]
fn what_is_no_value_is_refused_with_what_to_write() {
    let refused = |text: &str| Cli::try_parse_from(text.split(' ')).expect_err(text).to_string();
    for (line, says) in [
        ("palisade acquire a --owner=", "'--owner <OWNER>': it is empty"),
        ("palisade session open --owner=", "'--owner <OWNER>': it is empty"),
        ("palisade break a --reason r --by=", "'--by <BY>': it is empty"),
        ("palisade renew a --token abc", "the acquire printed"),
        ("palisade acquire a --ttl 90", "`90` has no unit"),
        ("palisade acquire a --ttl 60d", "24h"),
    ] {
        let told = refused(line);
        assert!(told.contains(says), "{line}: {told}");
    }
}

#[test]
fn a_request_id_is_sixteen_bytes_in_hex() {
    assert_eq!(
        request_id("000102030405060708090a0b0c0d0e0f"),
        Ok(0x000102030405060708090a0b0c0d0e0f)
    );
    assert!(request_id("0f").is_err());
    assert!(request_id("zz0102030405060708090a0b0c0d0e0f").is_err());
}

#[test]
fn a_node_joins_with_or_without_seeds_and_an_id() {
    let node = |args: &[&str]| {
        let all = ["palisade", "node", "--config", "c.yaml"].iter().chain(args);
        match Cli::try_parse_from(all).map(|cli| cli.command) {
            Ok(Command::Node(node)) => Some(node),
            _ => None,
        }
    };
    let joins = |args: &[&str]| node(args).and_then(|node| node.join);
    let with_id = ["--id", "6", "--address", "six:7400", "--join"];
    assert_eq!(joins(&with_id), Some(Vec::new()));
    let seeds = vec!["one:7400".to_owned(), "two:7400".to_owned()];
    assert_eq!(joins(&[&with_id[..], &["one:7400,two:7400"]].concat()), Some(seeds.clone()));
    let twice = [&with_id[..], &["one:7400", "--join", "two:7400", "--zone", "b"]].concat();
    assert_eq!(joins(&twice), Some(seeds));
    let without = ["--join", "--address", "six:7400", "--data-dir", "d"];
    assert!(node(&without).is_some_and(|node| node.id.is_none()));
    assert!(node(&without[..3]).is_none(), "the directory is that of no id");
    assert!(node(&["--data-dir", "d"]).is_none(), "only a node that joins is given an id");
    assert!(node(&["--join", "--id", "6"]).is_none(), "others must find it");
    assert!(node(&["--id", "1", "--seed", "one:7400"]).is_some_and(|node| node.join.is_none()));
}
