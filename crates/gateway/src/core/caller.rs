//! Whose operation it is.

/// The caller of an operation. It stands beside every operation on its way through the gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// A client that has proven no identity.
    #[default]
    Anonymous,
    /// This gateway, which cleans up after a client that is gone.
    Gateway,
}
