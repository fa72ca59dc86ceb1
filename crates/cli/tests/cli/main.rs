//! Tests of what needs no cluster: plans, certificates, policies, profiles and the reference pages.

mod cert;
mod plan;
mod policy;
mod profiles;
mod reference;
