//! An identity that was proven, with its rights.

use crate::account::Account;
use crate::policy::{Quota, Rights};
use crate::principal::Principal;
use std::sync::Arc;

/// A principal with its rights and its account, as one version of the policy has them.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its name.
    pub principal: Principal,
    /// The rights of the identity.
    pub rights: Rights,
    /// The present use of the gateway by the identity.
    pub account: Arc<Account>,
    /// Unix time in seconds at which its proof ends, if it ends.
    pub expires_at_s: Option<u64>,
}

impl Identity {
    /// An identity that may do everything within a quota. For tests and simulators.
    pub fn unrestricted(principal: Principal, quota: Quota) -> Identity {
        let (rights, account) = (Rights::all(quota), Arc::default());
        Identity { principal, rights, account, expires_at_s: None }
    }

    /// How much the identity may have and do.
    pub fn quota(&self) -> &Quota {
        self.rights.quota()
    }
}
