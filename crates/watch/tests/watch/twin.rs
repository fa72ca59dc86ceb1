//! Random histories: a watcher of a small ring, which moves between two replicas, against all
//! events of the shard.

use crate::shard::*;
use locks::EventKind;
use palisade_watch::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Apply(Op),
    /// The watcher's part is delivered, so many times.
    Deliver(usize),
    /// The page that it wants is read.
    Page,
    /// It goes on at the other replica, after its last place.
    Move,
    /// The replica that it watches starts anew.
    Restart,
    /// Quiet watchers hear of their places.
    Places,
    /// The page that it wants cannot be had now.
    NoPage,
}

fn any_op() -> impl Strategy<Value = Op> {
    let nth = || 0..6usize;
    prop_oneof![
        8 => (0..NAMES.len(), 0..OWNERS.len(), 0..SESSIONS.len(), any::<bool>())
            .prop_map(|(name, owner, session, shared)| Op::Acquire { name, owner, session, shared }),
        5 => nth().prop_map(|nth| Op::Release { nth }),
        1 => nth().prop_map(|nth| Op::Break { nth }),
        2 => nth().prop_map(|nth| Op::Expire { nth }),
        2 => nth().prop_map(|nth| Op::Cancel { nth }),
        1 => (1..SESSIONS.len()).prop_map(|session| Op::Close { session }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => any_op().prop_map(Step::Apply),
        4 => (1..4usize).prop_map(Step::Deliver),
        4 => Just(Step::Page),
        1 => Just(Step::Move),
        1 => Just(Step::Restart),
        1 => Just(Step::Places),
        1 => Just(Step::NoPage),
    ]
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let kinds = prop_oneof![
        3 => Just(Kinds::default()),
        1 => Just(Kinds::of([EventKind::Granted, EventKind::Expired])),
    ];
    let name = prop::option::weighted(0.3, 0..NAMES.len());
    let prefix = prop::sample::select(vec!["", "", "a", "b/", "x"]);
    let session = prop_oneof![3 => Just(0), 1 => 1..SESSIONS.len()];
    let owner = prop_oneof![3 => Just(""), 1 => Just("ann")];
    (name, prefix, session, owner, kinds).prop_map(|(name, prefix, session, owner, kinds)| Filter {
        name: name.map(|name| NAMES[name].into()),
        prefix: prefix.into(),
        session: SESSIONS[session].into(),
        owner: owner.into(),
        kinds,
    })
}

const ME: WatcherId = WatcherId(7);

/// Two replicas that apply the same, of which one is watched.
struct Run {
    shard: Shard,
    replicas: [Recent; 2],
    at: usize,
    asked: Option<Ask>,
    filter: Filter,
    me: Watcher,
}

impl Run {
    fn new(filter: Filter, limits: Limits) -> Run {
        let replicas = [0, 1].map(|_| {
            let mut recent = Recent::new(limits);
            recent.begin(0);
            recent
        });
        let is_partial = filter.kinds != Kinds::default();
        let me = Watcher { is_partial, filter: filter.clone(), ..Watcher::default() };
        let shard = Shard::default();
        let mut run = Run { shard, replicas, at: 0, asked: None, filter, me };
        run.start();
        run
    }

    fn start(&mut self) {
        self.asked = None;
        let after = self.me.place.filter(|_| self.me.is_complete);
        self.replicas[self.at].start(ME, self.filter.clone(), after);
        if after.is_none() {
            self.me.is_complete = false;
        }
    }

    fn apply(&mut self, op: &Op) {
        let events = self.shard.apply(op);
        for recent in &mut self.replicas {
            if !events.is_empty() {
                recent.push(self.shard.index, 0, events.clone());
            }
            recent.applied(self.shard.index);
        }
    }

    /// Returns whether a page was wanted.
    fn page(&mut self) -> bool {
        let recent = &mut self.replicas[self.at];
        if let Some(ask) = recent.wants_page(ME) {
            self.asked = Some(ask);
        }
        let Some(ask) = self.asked.take() else { return false };
        let page = self.shard.page(&ask);
        recent.page(ME, ask.attempt, page);
        true
    }

    /// Returns whether anything was delivered.
    fn deliver(&mut self) -> bool {
        let recent = &mut self.replicas[self.at];
        let is_due = recent.is_due(ME);
        let before = recent.resyncs();
        let Some(part) = recent.deliver(ME, ROOM) else {
            assert!(!is_due || recent.resyncs() > before, "due, and nothing comes");
            return false;
        };
        self.me.take(part);
        self.check();
        true
    }

    /// All events since the complete state were told, each once and in order, up to the place.
    fn check(&self) {
        let (Some(since), Some(place)) = (self.me.since, self.me.place) else { return };
        let from = (since.index, since.ordinals)..(place.index, place.ordinals);
        let all = self.shard.events.range(from).filter(|(_, event)| self.filter.matches(event));
        let all: Vec<(u64, u32)> = all.map(|(place, _)| *place).collect();
        assert_eq!(self.me.events, all, "since {since:?}, up to {place:?}");
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Apply(op) => self.apply(op),
            Step::Deliver(times) => (0..*times).for_each(|_| _ = self.deliver()),
            Step::Page => _ = self.page(),
            Step::Move => {
                self.replicas[self.at].stop(ME);
                self.at = 1 - self.at;
                self.start();
            }
            Step::Places => _ = self.replicas[self.at].tell_places(),
            Step::NoPage => {
                if let Some(ask) = self.replicas[self.at].wants_page(ME) {
                    self.replicas[self.at].no_page(ME, ask.attempt);
                }
            }
            Step::Restart => {
                self.replicas[self.at].begin(self.shard.index);
            }
        }
    }

    /// Everything is told. The view is what is there.
    fn settle(&mut self) {
        let mut idle = 0;
        while idle < 2 {
            let wanted = self.page();
            // A round in which the ring is found to have passed it delivers nothing.
            idle = if self.deliver() || wanted { 0 } else { idle + 1 };
        }
        assert!(self.me.is_complete);
        if !self.me.is_partial {
            assert_eq!(self.me.view, self.shard.now(&self.filter), "{:?}", self.filter);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn each_event_is_told_once_and_in_order_or_a_new_picture(
        steps in prop::collection::vec(any_step(), 1..120),
        filter in any_filter(),
        events in prop_oneof![2..10usize, 1_000..1_001usize],
    ) {
        let mut run = Run::new(filter, Limits { events, bytes: 1 << 20 });
        for step in &steps {
            run.take(step);
        }
        run.settle();
    }
}
