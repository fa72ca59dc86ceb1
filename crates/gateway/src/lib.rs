//! The stateless routing front door.
