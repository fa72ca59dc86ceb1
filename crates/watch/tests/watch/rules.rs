//! Rules of rings and watchers, by name.

use crate::shard::*;
use locks::Event;
use palisade_watch::*;

const ME: WatcherId = WatcherId(1);
const OTHER: WatcherId = WatcherId(2);

fn recent(events: usize) -> Recent {
    let mut recent = Recent::new(Limits { events, bytes: 1 << 20 });
    recent.begin(0);
    recent
}

fn of_name(name: &str) -> Filter {
    Filter { name: Some(name.into()), ..Filter::default() }
}

fn acquire(name: usize) -> Op {
    Op::Acquire { name, owner: 0, session: 0, shared: true }
}

fn push(recent: &mut Recent, shard: &mut Shard, op: &Op) -> Vec<WatcherId> {
    let events = shard.apply(op);
    recent.push(shard.index, 0, events)
}

/// Starts a watch, and tells its whole picture.
fn start(recent: &mut Recent, shard: &mut Shard, id: WatcherId, filter: Filter) {
    recent.start(id, filter, None);
    tell_picture(recent, shard, id);
}

fn tell_picture(recent: &mut Recent, shard: &mut Shard, id: WatcherId) {
    while let Some(ask) = recent.wants_page(id) {
        let page = shard.page(&ask);
        recent.page(id, ask.attempt, page);
        while recent.deliver(id, ROOM).is_some() {}
    }
}

fn delivered(recent: &mut Recent, id: WatcherId) -> usize {
    match recent.deliver(id, ROOM) {
        Some(Part::Events { events, .. }) => events.len(),
        None => 0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_those_are_woken_whose_filters_match() {
    let (mut recent, mut shard) = (recent(100), Shard::default());
    start(&mut recent, &mut shard, ME, of_name("a"));
    let prefix = Filter { prefix: "a/".into(), ..Filter::default() };
    start(&mut recent, &mut shard, OTHER, prefix);
    assert_eq!(push(&mut recent, &mut shard, &acquire(0)), [ME]);
    assert_eq!(push(&mut recent, &mut shard, &acquire(1)), [OTHER]);
    assert_eq!(push(&mut recent, &mut shard, &acquire(0)), [], "it is woken already");
    assert_eq!(push(&mut recent, &mut shard, &acquire(2)), []);
    assert_eq!((delivered(&mut recent, ME), delivered(&mut recent, OTHER)), (2, 1));
    recent.stop(OTHER);
    assert_eq!(push(&mut recent, &mut shard, &acquire(1)), []);
}

/// One does not read. The ring passes it, the other loses nothing, and in the end both know all.
#[test]
fn a_slow_watcher_is_told_a_new_picture_and_costs_another_nothing() {
    let (mut recent, mut shard) = (recent(10), Shard::default());
    start(&mut recent, &mut shard, ME, of_name("a"));
    start(&mut recent, &mut shard, OTHER, Filter::default());
    for _ in 0..40 {
        push(&mut recent, &mut shard, &acquire(0));
        assert_eq!(delivered(&mut recent, OTHER), 1);
    }
    assert_eq!(recent.deliver(ME, ROOM), None);
    assert_eq!(recent.resyncs(), 1);
    let ask = recent.wants_page(ME).expect("a new picture");
    let page = shard.page(&ask);
    recent.page(ME, ask.attempt, page);
    let part = recent.deliver(ME, ROOM);
    assert!(matches!(part, Some(Part::State { first: true, resync: true, .. })), "{part:?}");
}

/// A watcher of which the ring holds nothing has lost nothing, however much has passed.
#[test]
fn a_watcher_of_a_quiet_lock_is_not_passed_and_hears_of_its_place() {
    let (mut recent, mut shard) = (recent(16), Shard::default());
    start(&mut recent, &mut shard, ME, of_name("b"));
    let mut places = Vec::new();
    for _ in 0..100 {
        if push(&mut recent, &mut shard, &acquire(0)) == [ME]
            && let Some(Part::Events { events, place: Some(place) }) = recent.deliver(ME, ROOM)
        {
            assert!(events.is_empty());
            places.push(place.index);
        }
    }
    assert!(places.len() > 20, "{places:?}");
    assert_eq!(recent.resyncs(), 0);
    push(&mut recent, &mut shard, &acquire(2));
    assert_eq!(delivered(&mut recent, ME), 1);
}

#[test]
fn a_page_of_an_earlier_picture_is_dropped() {
    let (mut recent, mut shard) = (recent(10), Shard::default());
    (0..4).for_each(|_| _ = push(&mut recent, &mut shard, &acquire(0)));
    recent.start(ME, Filter::default(), None);
    let first = recent.wants_page(ME).expect("a page");
    assert_eq!(recent.wants_page(ME), None, "it is asked for once");
    recent.page(ME, first.attempt, shard.page(&first));
    assert!(matches!(recent.deliver(ME, ROOM), Some(Part::State { last: false, .. })));
    let old = recent.wants_page(ME).expect("the next page");
    recent.begin(5);
    let new = recent.wants_page(ME).expect("a page");
    assert_eq!(new.after, None);
    let page = shard.page(&old);
    recent.page(ME, old.attempt, page.clone());
    recent.no_page(ME, old.attempt);
    assert!(!recent.is_due(ME) && !recent.needs_page(ME));
    recent.page(ME, new.attempt, page);
    let Some(Part::State { first: true, resync: true, .. }) = recent.deliver(ME, ROOM) else {
        panic!("a new picture");
    };
}

/// A watch that starts with its ring has asked for its first page already when the ring begins.
#[test]
fn a_first_page_is_asked_for_once_although_the_ring_begins_after_that() {
    let (mut recent, mut shard) = (recent(10), Shard::default());
    recent.start(ME, Filter::default(), None);
    let ask = recent.wants_page(ME).expect("a page");
    recent.begin(5);
    assert_eq!(recent.wants_page(ME), None);
    recent.page(ME, ask.attempt, shard.page(&ask));
    let Some(Part::State { resync, place, .. }) = recent.deliver(ME, ROOM) else { panic!() };
    assert!(!resync, "nothing was told before");
    assert_eq!(place, Some(Place { index: 6, ordinals: 0 }));
}

#[test]
fn a_watch_goes_on_within_an_entry() {
    let (mut recent, mut shard) = (recent(100), Shard::default());
    for _ in 0..3 {
        push(&mut recent, &mut shard, &Op::Acquire { name: 0, owner: 0, session: 1, shared: true });
    }
    push(&mut recent, &mut shard, &Op::Close { session: 1 });
    let place = Place { index: 4, ordinals: 1 };
    recent.start(ME, Filter::default(), Some(place));
    let Some(Part::Events { events, .. }) = recent.deliver(ME, ROOM) else { panic!() };
    let ordinals: Vec<_> = events.iter().map(|told| (told.index, told.ordinal)).collect();
    assert_eq!(ordinals, [(4, 1), (4, 2)]);
    assert!(events.iter().all(|told| matches!(told.event, Event::Ended { .. })));
}

#[test]
fn a_place_that_is_too_old_or_never_was_begins_with_a_picture() {
    let (mut recent, mut shard) = (recent(4), Shard::default());
    for _ in 0..20 {
        push(&mut recent, &mut shard, &acquire(0));
    }
    for (id, index) in [(ME, 3), (OTHER, 4_000)] {
        recent.start(id, Filter::default(), Some(Place { index, ordinals: 0 }));
        let ask = recent.wants_page(id).expect("a picture");
        recent.page(id, ask.attempt, shard.page(&ask));
        let part = recent.deliver(id, ROOM);
        assert!(matches!(part, Some(Part::State { resync: true, .. })), "{part:?}");
    }
}

#[test]
fn a_ring_is_bounded_in_bytes() {
    let (mut recent, mut shard) =
        (Recent::new(Limits { events: 100, bytes: 2_000 }), Shard::default());
    for _ in 0..50 {
        push(&mut recent, &mut shard, &acquire(0));
        assert!(recent.bytes() <= 2_000);
    }
}

/// What happens elsewhere is searched in pieces. Each delivery has a place, so that the watch can
/// go on from there.
#[test]
fn one_delivery_looks_at_a_bounded_number_of_events() {
    let mut recent = Recent::new(Limits { events: 10_000, bytes: 1 << 24 });
    recent.begin(0);
    let mut shard = Shard::default();
    for _ in 0..5_000 {
        push(&mut recent, &mut shard, &acquire(0));
    }
    push(&mut recent, &mut shard, &acquire(2));
    // Events of one name are found at once.
    recent.start(OTHER, of_name("b"), Some(Place { index: 1, ordinals: 0 }));
    assert_eq!(delivered(&mut recent, OTHER), 1);
    let filter = Filter { prefix: "b".into(), ..Filter::default() };
    recent.start(ME, filter, Some(Place { index: 1, ordinals: 0 }));
    let mut last = Place::default();
    let mut empty = 0;
    while let Some(Part::Events { events, place: Some(place) }) = recent.deliver(ME, ROOM) {
        assert!(place > last);
        (last, empty) = (place, empty + usize::from(events.is_empty()));
        assert!(events.iter().all(|told| told.event.name() == "b"));
    }
    assert_eq!((last, empty), (Place { index: 5_002, ordinals: 0 }, 4));
    assert!(!recent.is_due(ME));
}

/// Entries without events move the place too.
#[test]
fn a_watcher_hears_of_its_place_when_that_has_moved() {
    let (mut recent, mut shard) = (recent(100), Shard::default());
    start(&mut recent, &mut shard, ME, of_name("b"));
    assert_eq!(recent.tell_places(), []);
    recent.applied(50);
    assert_eq!(recent.tell_places(), [ME]);
    assert_eq!(recent.tell_places(), [], "it is due already");
    let place = Some(Place { index: 51, ordinals: 0 });
    assert_eq!(recent.deliver(ME, ROOM), Some(Part::Events { events: Vec::new(), place }));
    assert_eq!(recent.tell_places(), []);
}
