//! The recent events of one shard, and the watchers that are told of them.
//!
//! A [`Recent`] keeps the last events of a shard in a ring, up to a number and a size. A watcher
//! has no queue of its own: it has a cursor into the ring. So a watcher that does not read costs
//! others nothing. Once the ring has passed its cursor, it is told a new picture ([`Part::State`],
//! with `resync`), and never a sequence with a gap.
//!
//! The crate is pure: it knows nothing of clocks, threads, sockets and the protocol. Its owner
//! gives it events and pages of pictures, in the order of the shard's log, and asks it for the next
//! part.
//!
//! ```
//! use locks::{Event, PicturePage};
//! use palisade_watch::{Filter, Limits, Part, Place, Recent, Room, WatcherId};
//!
//! let mut recent = Recent::new(Limits { events: 1_000, bytes: 1 << 20 });
//! recent.begin(41);
//! let ann = WatcherId(1);
//! recent.start(ann, Filter { name: Some("orders/42".into()), ..Filter::default() }, None);
//!
//! // A watch begins with a picture. This one is empty, as of entry 41.
//! let ask = recent.wants_page(ann).expect("a picture");
//! recent.page(ann, ask.attempt, PicturePage::default());
//! let room = Room { events: 10, bytes: 1 << 20 };
//! let Some(Part::State { first: true, last: true, resync: false, place, .. }) =
//!     recent.deliver(ann, room)
//! else {
//!     panic!();
//! };
//! assert_eq!(place, Some(Place { index: 42, ordinals: 0 }));
//! assert!(recent.deliver(ann, room).is_none());
//! ```

mod filter;
mod finder;
mod place;
mod planted_bugs;
mod recent;
mod ring;

pub use filter::{Filter, Kinds};
pub use place::{Limits, Place, Room, WatcherId};
pub use recent::{Ask, Part, Recent};
pub use ring::Told;
