//! Tests of what needs no cluster of several processes: plans, certificates, policies, profiles,
//! completions, one node with a gateway, and the reference pages.

mod cert;
mod completions;
mod plan;
mod policy;
mod profiles;
mod reference;
mod serving;
