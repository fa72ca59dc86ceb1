//! Enums as words.

use crate::v1::{GrantState, Mode};

/// The state of a hold in the protocol's spelling, without its prefixes.
pub fn state_name(state: GrantState) -> &'static str {
    match state {
        GrantState::Unspecified => "UNKNOWN",
        GrantState::Acquired => "ACQUIRED",
        GrantState::Expired => "EXPIRED",
        GrantState::Released => "RELEASED",
        GrantState::Broken => "BROKEN",
    }
}

/// The mode of a hold, as on the command line.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Exclusive | Mode::Unspecified => "exclusive",
        Mode::Shared => "shared",
        Mode::Semaphore => "semaphore",
    }
}
