//! How connections are taken, made and secured. Gateways, nodes and the SDK use it.
//!
//! - [`accept`] is the listening side: connections are taken within bounds, with TLS or without.
//! - [`dial`] is the other side: a [`Target`](dial::Target) is a server with the proof that it owes.
//! - [`frames`] is a stream of messages on a connection without HTTP/2.
//! - [`tls`] makes both sides' settings from files, and [`reload`] reads the files again.
//! - [`role`] names the processes of a cluster, as their certificates do.
//! - [`token`] is the bearer token that a client sends with its calls.
//!
//! TLS is version 1.3 and without resumption, so every connection shows its certificate. The crate
//! knows nothing of the messages on a connection, and nothing of the rights of a peer there.
//!
//! ```no_run
//! use palisade_net::role::{Process, Role};
//! use palisade_net::tls::InsideFiles;
//! use palisade_net::dial::Target;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let own = Role { cluster: "prod".into(), process: Process::Gateway("a".into()) };
//! let inside = InsideFiles {
//!     cert: "gateway.crt".into(),
//!     key: "gateway.key".into(),
//!     ca: "inside-ca.crt".into(),
//!     role: own,
//! }
//! .open()?;
//! let node = Target::inside("10.0.0.3:7401", Some(&inside), 3)?;
//! let channel = node.connect(std::time::Duration::from_secs(2), |endpoint| endpoint).await?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

pub mod accept;
pub mod certificate;
pub mod dial;
pub mod frames;
mod io;
mod recheck;
pub mod reload;
pub mod role;
mod seldom;
pub mod tls;
pub mod token;
mod verify;
