//! Reads of many rows: a step touches a bounded number of them, and all are answered.

use crate::cluster::*;
use locks::{Command, Grant, ListOf, Mode, Token};
use palisade_shard::*;
use std::collections::BTreeSet;

/// Shared holders of one name, and locks of one holder.
const MANY: usize = 12_000;
/// What a step may touch of both lines of reads together: of each a step's share, begun once more
/// by its last read, and a page.
const STEP_MAX: usize = 2 * (2 * 4_096 + 1_000);

fn list_of(prefix: &str, after: Option<(String, Token)>, limit: usize) -> Query {
    let of = ListOf { prefix: prefix.into(), ..ListOf::default() };
    Query::List { of, after, limit, waiters_of_name: 0 }
}

/// `kind` 0: all share one name; 1: names of their own.
fn fill(c: &mut Cluster, kind: usize) {
    for from in (0..MANY).step_by(1_000) {
        for n in from..from + 1_000 {
            let (request_id, name) = (c.request_id(), format!("n{n:05}"));
            let shared = Command::Acquire {
                request_id,
                name: ["config", &name][kind],
                owner: "o",
                ttl_ms: 3_600_000,
                mode: Mode::Shared,
                wait: false,
                session: "",
                metadata: "",
                claim_ttl_ms: 0,
            };
            c.submit(1, &shared, None);
        }
        c.settle();
    }
    // Also what changed since the last checkpoint is read for a hash.
    c.run_ms(20_000);
    c.rows_read.clear();
}

fn ask(c: &mut Cluster, query: Query, linearizable: bool) -> Ticket {
    let ticket = c.ticket();
    c.peers.get_mut(&1).expect("a peer").inbox.push(Input::Read { ticket, query, linearizable });
    ticket
}

fn answer(c: &mut Cluster, ticket: Ticket) -> Answer {
    match c.reply(1, ticket) {
        Some(Reply::Read { answer, .. }) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

fn most_rows(c: &Cluster) -> usize {
    c.rows_read.iter().map(|(_, rows)| *rows).max().unwrap_or(0)
}

fn check(after: u64, limit: usize) -> Query {
    Query::Check { name: "config".into(), after: Token(after), limit, waiters: 0 }
}

/// 50 checks of a name with 50,000 holders: each read all of them within one step, and the shard's
/// followers elected another leader.
#[test]
fn checks_of_a_name_with_many_holders_leave_steps_short() {
    let mut c = Cluster::new(3);
    c.elect();
    fill(&mut c, 0);
    let term = c.status(1).term;
    let tickets: Vec<Ticket> = (0..50).map(|n| ask(&mut c, check(0, 1_000), n % 2 == 0)).collect();
    let request_id = c.request_id();
    let write = c.submit(1, &acquire(request_id, "other", 60_000, false), None);
    // The write is done while most reads still wait.
    let mut rounds = 0;
    while c.peers[&1].replies.iter().all(|(ticket, _)| *ticket != write) {
        c.round();
        rounds += 1;
        assert!(rounds < 10, "the write waits for the reads");
    }
    let answered = tickets
        .iter()
        .filter(|ticket| c.peers[&1].replies.iter().any(|(t, _)| t == *ticket))
        .count();
    assert!(answered < 40, "{answered} of 50 checks were done before the write");
    c.settle();
    for ticket in tickets {
        let Answer::Check { holders, holder_count, more, .. } = answer(&mut c, ticket) else {
            panic!()
        };
        assert_eq!((holders.len(), holder_count as usize, more), (1_000, MANY, true));
    }
    assert!(most_rows(&c) <= STEP_MAX, "{} rows in a step", most_rows(&c));
    assert!(most_rows(&c) > 1_000);
    assert_eq!(c.status(1).term, term);
}

#[test]
fn all_holders_are_found_page_by_page() {
    let mut c = Cluster::new(3);
    c.elect();
    fill(&mut c, 0);
    let mut seen: Vec<u64> = Vec::new();
    loop {
        let ticket = ask(&mut c, check(seen.last().copied().unwrap_or(0), 1_000), true);
        c.settle();
        let Answer::Check { holders, holder_count, more, .. } = answer(&mut c, ticket) else {
            panic!()
        };
        assert_eq!(holder_count as usize, MANY - seen.len() / 1_000);
        seen.extend(holders.iter().map(|grant| grant.token.0));
        if !more {
            break;
        }
        // The next page is to begin after one that is gone.
        let token = Token(*seen.last().expect("a page"));
        c.submit(1, &Command::Release { name: "config", token, by: None }, None);
        c.settle();
    }
    assert_eq!(seen, (1..=MANY as u64).collect::<Vec<_>>());
    assert!(most_rows(&c) <= STEP_MAX, "{} rows in a step", most_rows(&c));
}

#[test]
fn a_history_shows_the_newest_of_what_holds_and_of_what_has_ended() {
    let mut c = Cluster::new(3);
    c.elect();
    fill(&mut c, 0);
    // A checkpoint is due since long, and comes with the first change.
    c.submit(1, &Command::Release { name: "config", token: Token(MANY as u64), by: None }, None);
    c.settle();
    // In one entry, and not by rising tokens.
    for n in 0..30 {
        c.submit(
            1,
            &Command::Release { name: "config", token: Token(1 + n * 7 % 30), by: None },
            None,
        );
    }
    c.settle();
    let ticket = ask(&mut c, Query::History { name: "config".into(), limit: 20 }, true);
    c.settle();
    let Answer::History { ended, current } = answer(&mut c, ticket) else { panic!() };
    let ended: BTreeSet<u64> = ended.iter().map(|tenure| tenure.grant.token.0).collect();
    assert_eq!(ended, (11..=30).collect());
    let newest: Vec<u64> = current.iter().map(|grant| grant.token.0).collect();
    assert_eq!(newest, (MANY as u64 - 20..MANY as u64).rev().collect::<Vec<_>>());
}

/// 40 times `ls --limit 1` and `cluster status` at 300,000 locks: each read the whole table within
/// one step.
#[test]
fn lists_and_hashes_of_a_large_table_leave_steps_short() {
    let mut c = Cluster::new(3);
    c.elect();
    fill(&mut c, 1);
    let term = c.status(1).term;
    let list = |limit| list_of("n", None, limit);
    let lists: Vec<Ticket> = (0..40).map(|_| ask(&mut c, list(1), true)).collect();
    let statuses: Vec<Ticket> = (0..40).map(|_| ask(&mut c, Query::Status, false)).collect();
    let check = ask(&mut c, Query::check("n00007"), true);
    let mut rounds = 0;
    while c.peers[&1].replies.iter().all(|(ticket, _)| *ticket != check) {
        c.round();
        rounds += 1;
        assert!(rounds < 10, "the check waits for the lists");
    }
    assert!(
        c.peers[&1].replies.iter().all(|(ticket, _)| !lists.contains(ticket)),
        "names were put in order at once"
    );
    c.settle();
    for ticket in lists {
        let Answer::List { grants, next, .. } = answer(&mut c, ticket) else { panic!() };
        assert_eq!((grants.len(), next), (1, Some(("n00000".into(), grants[0].token))));
    }
    let hashes: BTreeSet<(u64, u64)> =
        statuses.into_iter().map(|ticket| hash_of(answer(&mut c, ticket))).collect();
    assert_eq!(hashes.len(), 1, "asked at one index");
    assert!(most_rows(&c) <= STEP_MAX, "{} rows in a step", most_rows(&c));
    // The same everywhere, whenever each replica wrote its checkpoints, and after a restart.
    c.crash(3);
    c.start(3);
    c.run_ms(1_000);
    let seen: BTreeSet<(u64, u64)> = (1..=3).map(|id| c.hash(id)).collect();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(
        c.peers[&2].replica.as_ref().expect("runs").state_hash_from_scratch(),
        seen.first().expect("one").1
    );
    assert_eq!(c.status(1).term, term);
}

fn hash_of(answer: Answer) -> (u64, u64) {
    match answer {
        Answer::Status(status) => (status.applied_index, status.state_hash),
        other => panic!("no status: {other:?}"),
    }
}

#[test]
fn all_locks_are_listed_page_by_page() {
    let mut c = Cluster::new(3);
    c.elect();
    fill(&mut c, 1);
    let (mut listed, mut after): (Vec<Grant>, _) = (Vec::new(), None);
    loop {
        let ticket = ask(&mut c, list_of("", after, 1_000), true);
        c.settle();
        let Answer::List { grants, next, .. } = answer(&mut c, ticket) else { panic!() };
        assert_eq!(grants.len(), 1_000);
        listed.extend(grants);
        after = next;
        if after.is_none() {
            break;
        }
        // What is gone is not missed: its neighbours are.
        let (name, token) = after.clone().expect("just seen");
        c.submit(1, &Command::Release { name: &name, token, by: None }, None);
        c.settle();
    }
    assert_eq!(listed.len(), MANY);
    assert!(listed.is_sorted_by(|a, b| a.name < b.name));
    assert!(most_rows(&c) <= STEP_MAX, "{} rows in a step", most_rows(&c));
}
