//! Sound watches pass, and each way in which a watch can lie is found.

use super::super::history::{Mode, TenureRecord};
use super::*;

/// The entry of the first grant, and the time of the first acquire.
const FIRST: (u64, u64) = (20, 1_000_000);
const TOKENS: u64 = 12;
/// The watch of the first client is of all names, goes on by its position, and comes back with an
/// outdated one. The second is of all names, and the third of one.
const FICKLE: usize = 0;
const STEADY: usize = 1;
const OF_ONE: usize = 2;

struct Run {
    history: History,
    watches: Vec<WatchRecord>,
    reached: Reached,
}

fn name_of(token: u64) -> &'static str {
    if token.is_multiple_of(3) { "b" } else { "a" }
}

/// The changes of the run, each with its index and its time. Every token is held for a while, and
/// released.
fn changes() -> Vec<(u64, u64, ToldChange)> {
    let of_token = |token: u64| {
        let (index, at_us) = (FIRST.0 + 2 * token, FIRST.1 + 10_000 * token);
        let name = name_of(token).to_owned();
        let granted = Happened::Granted { token, waiter: None, number: Some(100 + token) };
        let ended = Happened::Ended { token, end: End::Released };
        [
            (index, at_us + 1_000, ToldChange { name: name.clone(), what: granted }),
            (index + 1, at_us + 6_000, ToldChange { name, what: ended }),
        ]
    };
    (1..=TOKENS).flat_map(of_token).collect()
}

fn operation(token: u64, call: Call, result: Outcome, invoke_us: u64) -> Operation {
    let (name, return_us) = (name_of(token).to_owned(), Some(invoke_us + 3_000));
    Operation { client: 9, name, shard: 0, invoke_us, return_us, tries: 1, call, result }
}

fn state(index: u64, resync: bool, held: &[u64]) -> WatchNote {
    let held = held.iter().map(|token| (*token, name_of(*token).to_owned())).collect();
    let state = ToldState { shard: 0, first: true, last: true, resync, held, queued: Vec::new() };
    let places = BTreeMap::from([(0, (index, 0))]);
    WatchNote::Told { at_us: 1, state: Some(state), events: Vec::new(), places }
}

impl Run {
    fn sound() -> Run {
        let mut history = History { tenures: Some(Vec::new()), ..History::default() };
        for token in 1..=TOKENS {
            let at_us = FIRST.1 + 10_000 * token;
            let (request, mode) = (100 + token, Mode::Exclusive);
            let call = Call::Acquire { request, mode, ttl_ms: 9_000, wait_ms: 0, session: 0 };
            let granted = Outcome::Granted { token, ttl_ms: 9_000 };
            history.operations.push(operation(token, call, granted, at_us));
            let (call, released) = (Call::Release { token }, Outcome::Released { already: false });
            history.operations.push(operation(token, call, released, at_us + 5_000));
            let (name, request) = (name_of(token).to_owned(), Some(request));
            let tenure = TenureRecord { shard: 0, name, token, request, end: Some(End::Released) };
            history.tenures.get_or_insert_default().push(tenure);
        }
        let record = |at: usize| {
            let name = (at == OF_ONE).then(|| "a".to_owned());
            let mut notes = vec![state(FIRST.0, false, &[])];
            for (number, (index, at_us, change)) in changes().into_iter().enumerate() {
                if at == FICKLE && number % 5 == 4 {
                    notes.push(WatchNote::GoesOn { outdated: false });
                }
                // It misses the 16th change, and is told a new state instead.
                if at == FICKLE && number == 15 {
                    notes.push(WatchNote::GoesOn { outdated: true });
                    notes.push(state(index + 1, true, &[]));
                    continue;
                }
                let events = match matches(name.as_deref(), &change.name) {
                    true => vec![(0, (index, 0), change)],
                    false => Vec::new(),
                };
                let places = BTreeMap::from([(0, (index + 1, 0))]);
                notes.push(WatchNote::Told { at_us, state: None, events, places });
            }
            WatchRecord { client: at as u32, name, notes }
        };
        let watches = (0..3).map(record).collect();
        let entries = BTreeMap::from([(0, FIRST.0 + 2 * TOKENS + 1)]);
        let reached = Reached { entries, at_us: FIRST.1 + 10_000 * (TOKENS + 1) };
        Run { history, watches, reached }
    }

    /// The note with the changes of an index.
    fn note(&mut self, watch: usize, index: u64) -> &mut WatchNote {
        let is_it = |note: &&mut WatchNote| match note {
            WatchNote::Told { places, state, .. } => {
                places.get(&0) == Some(&(index + 1, 0)) && state.is_none()
            }
            WatchNote::GoesOn { .. } => false,
        };
        self.watches[watch].notes.iter_mut().find(is_it).expect("it is there")
    }

    fn events(&mut self, watch: usize, index: u64) -> &mut Vec<(u32, Place, ToldChange)> {
        match self.note(watch, index) {
            WatchNote::Told { events, .. } => events,
            WatchNote::GoesOn { .. } => unreachable!("a note of changes"),
        }
    }

    fn found(&self) -> Vec<String> {
        let (found, _) = check_watches(&self.watches, &self.history, &self.reached);
        found.iter().map(ToString::to_string).collect()
    }

    #[track_caller]
    fn is_found(&self, what: &str) {
        let found = self.found();
        assert!(found.iter().any(|text| text.contains(what)), "{what}: {found:#?}");
    }
}

/// An entry in the middle, of a grant.
const MIDDLE: u64 = FIRST.0 + 2 * 5;

#[test]
fn a_sound_run_passes_and_is_counted() {
    let run = Run::sound();
    assert_eq!(run.found(), [""; 0]);
    let (_, counts) = check_watches(&run.watches, &run.history, &run.reached);
    assert_eq!(counts, WatchCounts { events: 24 + 23 + 16, resumed: 4, resynced: 1 });
}

#[test]
fn a_change_that_one_watch_was_not_told_is_found() {
    for watch in [FICKLE, STEADY, OF_ONE] {
        let mut run = Run::sound();
        run.events(watch, MIDDLE).clear();
        run.is_found("instead of");
    }
}

#[test]
fn a_grant_that_no_watch_was_told_is_found() {
    let mut run = Run::sound();
    (0..3).for_each(|watch| run.events(watch, MIDDLE).clear());
    (0..3).for_each(|watch| run.events(watch, MIDDLE + 1).clear());
    run.is_found("was told to no watch");
}

#[test]
fn an_end_that_no_watch_was_told_is_found() {
    let mut run = Run::sound();
    (0..3).for_each(|watch| run.events(watch, MIDDLE + 1).clear());
    run.is_found("is still held");
}

/// Regression: nobody asks for an expiry, so only a state that is told after it shows that the
/// expiry was not told.
#[test]
fn an_expiry_that_no_watch_was_told_is_found_by_a_fresh_state() {
    const TOKEN: u64 = 11;
    let mut run = Run::sound();
    let is_release = |call: &Call| matches!(call, Call::Release { token: TOKEN });
    run.history.operations.retain(|operation| !is_release(&operation.call));
    run.history.tenures.get_or_insert_default()[TOKEN as usize - 1].end = Some(End::Expired);
    (0..3).for_each(|watch| run.events(watch, FIRST.0 + 2 * TOKEN + 1).clear());
    assert_eq!(run.found(), [""; 0], "the others cannot know");
    let notes = vec![state(FIRST.0 + 2 * TOKENS + 2, false, &[])];
    run.watches.push(WatchRecord { client: 3, name: None, notes });
    run.is_found("was told the state");
}

#[test]
fn a_watch_that_loses_its_place_is_found() {
    let mut run = Run::sound();
    if let WatchNote::Told { places, .. } = run.note(STEADY, MIDDLE) {
        places.clear();
    }
    run.is_found("lost its place");
}

#[test]
fn a_change_that_is_told_twice_is_found() {
    let mut run = Run::sound();
    let again = run.note(FICKLE, MIDDLE).clone();
    let at = run.watches[FICKLE].notes.len() / 2;
    run.watches[FICKLE].notes.insert(at, again);
    run.is_found("went back");
    let mut run = Run::sound();
    let again = run.events(STEADY, MIDDLE)[0].clone();
    run.events(STEADY, MIDDLE + 1).push(again);
    run.is_found("instead of");
    // Under a new place, it is another change with the same token.
    let mut run = Run::sound();
    for watch in 0..3 {
        let (shard, place, change) = run.events(watch, MIDDLE)[0].clone();
        run.events(watch, MIDDLE + 1).push((shard, (place.0 + 1, 1), change));
    }
    run.is_found("twice");
}

#[test]
fn changes_in_another_order_than_their_tokens_are_found() {
    let mut run = Run::sound();
    for watch in [FICKLE, STEADY, OF_ONE] {
        let (early, late) = (MIDDLE - 2, MIDDLE + 4);
        let change = |run: &mut Run, index| run.events(watch, index).pop().expect("one").2;
        let (first, last) = (change(&mut run, early), change(&mut run, late));
        run.events(watch, early).push((0, (early, 0), last));
        run.events(watch, late).push((0, (late, 0), first));
    }
    run.is_found("out of order");
}

#[test]
fn two_watches_that_are_told_different_things_are_found() {
    let mut run = Run::sound();
    run.events(STEADY, MIDDLE)[0].2.name = "c".to_owned();
    run.is_found("and another");
}

#[test]
fn after_an_outdated_position_nothing_is_left_out_without_a_resync() {
    let mut run = Run::sound();
    for note in &mut run.watches[FICKLE].notes {
        if let WatchNote::Told { state: Some(state), .. } = note {
            state.resync = false;
        }
    }
    run.is_found("and no resync");
    let mut run = Run::sound();
    run.watches[FICKLE]
        .notes
        .retain(|note| !matches!(note, WatchNote::Told { state: Some(state), .. } if state.resync));
    run.is_found("instead of");
}

#[test]
fn a_state_that_does_not_agree_with_the_changes_is_found() {
    let mut run = Run::sound();
    for note in &mut run.watches[FICKLE].notes {
        if let WatchNote::Told { state: Some(state), .. } = note
            && state.resync
        {
            state.held.push((8, "a".to_owned()));
        }
    }
    run.is_found("was told the state");
}

#[test]
fn what_is_not_in_the_history_is_found() {
    let mut run = Run::sound();
    run.history.tenures.get_or_insert_default().retain(|tenure| tenure.token != 5);
    run.is_found("is not in the history");
    let mut run = Run::sound();
    run.history.tenures.get_or_insert_default()[4].end = Some(End::Expired);
    run.is_found("is not in the history");
}

#[test]
fn a_change_that_is_told_before_it_is_committed_is_found() {
    let mut run = Run::sound();
    if let WatchNote::Told { at_us, .. } = run.note(STEADY, MIDDLE) {
        *at_us = FIRST.1;
    }
    run.is_found("before it can have been committed");
    // An end is told, and the token is renewed after that.
    let mut run = Run::sound();
    let renewed = operation(5, Call::Renew { token: 5 }, Outcome::Renewed, FIRST.1 + 58_000);
    run.history.operations.push(renewed);
    run.is_found("before it can have been committed");
}

#[test]
fn a_watch_that_stops_before_the_end_is_found() {
    let mut run = Run::sound();
    run.watches[STEADY].notes.pop();
    run.is_found("before entry");
}
