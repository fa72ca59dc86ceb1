//! Clients that watch: they write down all that they are told, and come back with their positions.
//!
//! Now and then a watch drops its call and goes on through another gateway, with the last position
//! or with one that is older than all that nodes remember. The SDK goes on by itself if a gateway
//! fails.

use crate::clock::now_us;
use client::{Client, Told, WatchOptions};
use gateway::core::watch::{Binding, Position};
use palisade_sim::checker::watch::Place;
use palisade_sim::checker::{End, Happened, OLDEST, ToldChange, ToldState, WatchNote, WatchRecord};
use palisade_sim::rng::Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use wire::internal::v1::WatchPlace;
use wire::v1::{Event, EventKind, WatchFilter};

/// The time that a watch has to come to the last entry. A gateway tells positions every 5 s in
/// silence, and a node every 10 s.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);
/// How long one call lasts before the watch goes on through another gateway, in milliseconds.
const CALL_MS: (u64, u64) = (600, 4_000);

/// A watch of one client in one round.
pub(super) struct Watcher {
    /// Clients that ask the gateways in different orders.
    pub clients: Vec<Client>,
    /// The fingerprint of the cluster, which positions are bound to.
    pub fingerprint: [u8; 16],
    /// The shards that it concerns.
    pub shards: Vec<u32>,
    pub filter: WatchFilter,
    pub rng: Rng,
    pub record: WatchRecord,
    /// An entry of each shard, once the watch is to end after these.
    pub until: watch::Receiver<Option<BTreeMap<u32, u64>>>,
}

impl Watcher {
    /// Watches until it has come to the last entries, or its time is up.
    pub(super) async fn run(mut self) -> WatchRecord {
        let binding = Binding::of(&self.fingerprint, &self.filter);
        let mut position = String::new();
        for at in 0.. {
            let options = WatchOptions::new().position(&position);
            let options = match &self.record.name {
                Some(name) => options.name(name),
                None => options.prefix(&self.filter.prefix),
            };
            let mut call = self.clients[at % self.clients.len()].watch(options);
            let call_ms = self.rng.range(CALL_MS.0, CALL_MS.1);
            let until = Instant::now() + Duration::from_millis(call_ms);
            let has_arrived = self.listen(&mut call, until, &binding).await;
            if has_arrived {
                break;
            }
            let outdated = self.until.borrow().is_none() && self.rng.percent(20);
            position = match outdated {
                true => self.outdated().encode(&binding),
                false => call.position().to_owned(),
            };
            self.record.notes.push(WatchNote::GoesOn { outdated });
        }
        self.record
    }

    /// Listens to one call until it is time for another. Returns whether the watch is over.
    async fn listen(
        &mut self,
        call: &mut client::Watch,
        mut until: Instant,
        binding: &Binding,
    ) -> bool {
        let mut has_reached = false;
        loop {
            let reached = self.until.borrow_and_update().clone();
            if let Some(reached) = &reached {
                // The last call of a watch lasts until the watch has come to the last entries.
                if !std::mem::replace(&mut has_reached, true) {
                    until = Instant::now() + ARRIVES_WITHIN;
                }
                if self.is_past(call.position(), reached, binding) {
                    return true;
                }
            }
            let told = tokio::select! {
                told = timeout_at(until, call.next()) => told,
                Ok(()) = self.until.changed(), if !has_reached => continue,
            };
            match told {
                Ok(Ok(told)) => self.note(told, binding),
                // A watch that was refused ends early, and the judge says so.
                Ok(Err(error)) => {
                    eprintln!("a watch was refused: {error}");
                    return true;
                }
                Err(_) => return has_reached,
            }
        }
    }

    fn is_past(&self, position: &str, reached: &BTreeMap<u32, u64>, binding: &Binding) -> bool {
        let places = places(position, &self.shards, binding);
        let is_past = |shard: &u32| {
            let (place, index) = (places.get(shard), reached.get(shard));
            index.is_none_or(|index| place.is_some_and(|place| *place > (*index, u32::MAX)))
        };
        self.shards.iter().all(is_past)
    }

    fn note(&mut self, told: Told, binding: &Binding) {
        let at_us = now_us();
        let state = told.state.map(|state| ToldState {
            shard: state.shard,
            first: state.first,
            last: state.last,
            resync: state.resync,
            held: (state.held.into_iter())
                .map(|grant| (grant.fencing_token, grant.resource_name))
                .collect(),
            queued: (state.queued.into_iter())
                .map(|waiter| (waiter.waiter, waiter.resource_name))
                .collect(),
        });
        let events = told.events.into_iter().map(change).collect();
        let places = places(&told.position, &self.shards, binding);
        self.record.notes.push(WatchNote::Told { at_us, state, events, places });
    }

    /// The position at the beginning of all logs.
    fn outdated(&self) -> Position {
        let (mut position, (index, ordinals)) = (Position::default(), OLDEST);
        let oldest = WatchPlace { index, ordinals };
        self.shards.iter().for_each(|shard| position.set(*shard, Some(oldest)));
        position
    }
}

/// The place on each shard that a position names.
fn places(position: &str, shards: &[u32], binding: &Binding) -> BTreeMap<u32, Place> {
    let position = Position::decode(position, binding).unwrap_or_default();
    let of_shard = |shard: &u32| Some((*shard, position.place(*shard)?));
    let places = shards.iter().filter_map(of_shard);
    places.map(|(shard, place)| (shard, (place.index, place.ordinals))).collect()
}

/// A change as the record has it.
fn change(event: Event) -> (u32, Place, ToldChange) {
    let kind = event.kind();
    let token = event.grant.as_ref().map_or(0, |grant| grant.fencing_token);
    let waiter = event.waiter.as_ref().map(|waiter| waiter.waiter);
    let number = event.grant.as_ref().and_then(|grant| super::number_of(&grant.owner_id));
    let what = match kind {
        EventKind::Granted | EventKind::Unspecified => Happened::Granted { token, waiter, number },
        EventKind::Queued => Happened::Queued { waiter: waiter.unwrap_or_default() },
        EventKind::Released => Happened::Ended { token, end: End::Released },
        EventKind::Expired => Happened::Ended { token, end: End::Expired },
        EventKind::Broken => Happened::Ended { token, end: End::Broken },
        EventKind::Cancelled => Happened::Cancelled { waiter: waiter.unwrap_or_default() },
    };
    (event.shard, (event.index, event.ordinal), ToldChange { name: event.resource_name, what })
}
