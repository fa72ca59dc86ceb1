//! What the client of a request may do, so that a page offers nothing that would be refused.

use crate::router::Router;
use crate::visitor::Visitor;
use access::Verb;
use schemars::JsonSchema;
use serde::Serialize;

/// The identity of a client, and what it may do.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Permissions {
    /// Whether clients have identities here. Without them, every client may do everything.
    identities: bool,
    /// The identity of the client: `anonymous` for one that has shown none, empty where identities
    /// are off.
    principal: String,
    /// Whether the client has shown no identity.
    anonymous: bool,
    /// What the identity may do.
    permissions: Vec<Permission>,
    /// The number of shards of the cluster: a watch of a prefix tells the state of each.
    shards: usize,
}

/// One verb that is permitted.
#[derive(Debug, Serialize, JsonSchema)]
struct Permission {
    /// `hold`, `read`, `watch` or `break` of names, and `observe` or `operate` of the cluster.
    verb: &'static str,
    /// The beginnings of the names for which it is permitted: an empty one stands for all names.
    /// There are none for a verb of the cluster.
    prefixes: Vec<String>,
}

impl Permissions {
    /// The permissions of a visitor whose identity is proven.
    pub(super) fn of(router: &Router, visitor: &Visitor) -> Permissions {
        let shards = router.directory.shards().len();
        match visitor.caller.identity() {
            Some(identity) if router.identities.is_some() => Permissions {
                identities: true,
                principal: identity.principal.to_string(),
                anonymous: identity.principal.is_anonymous(),
                permissions: (identity.rights.permitted())
                    .map(|(verb, prefixes)| Permission {
                        verb: verb.as_str(),
                        prefixes: prefixes.iter().map(|of| of.as_str().to_owned()).collect(),
                    })
                    .collect(),
                shards,
            },
            _ => Permissions {
                identities: router.identities.is_some(),
                principal: String::new(),
                anonymous: false,
                permissions: match router.identities {
                    Some(_) => Vec::new(), // not proven
                    None => Verb::ALL.into_iter().map(Permission::everywhere).collect(),
                },
                shards,
            },
        }
    }
}

impl Permission {
    /// A verb for all names, or for the cluster.
    fn everywhere(verb: Verb) -> Permission {
        let prefixes = if verb.is_of_names() { vec![String::new()] } else { Vec::new() };
        Permission { verb: verb.as_str(), prefixes }
    }
}
