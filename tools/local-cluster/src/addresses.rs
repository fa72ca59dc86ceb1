//! Addresses on loopback for processes that are killed and started again.

use crate::ClusterError;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Ports come from this range, which lies below the range that the kernel takes ports for outgoing
/// connections from. Otherwise an outgoing connection could take the port of a process that is
/// down.
const PORTS: std::ops::Range<u32> = 10_000..30_000;

/// Loopback addresses (`127.0.0.1:port`) that are free now and stay free while their process is
/// down. All are different, and no call of this process returns an address twice.
///
/// # Errors
/// If a whole round through the range finds no free port.
pub fn free_addresses(count: usize) -> Result<Vec<String>, ClusterError> {
    (0..count).map(|_| free_address()).collect()
}

fn free_address() -> Result<String, ClusterError> {
    /// Number of ports tried so far, whether free or taken.
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let range = PORTS.end - PORTS.start;
    // Processes that run at the same time begin at different ports.
    let start = std::process::id().wrapping_mul(131) % range;
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        if tried >= range {
            return Err(ClusterError::Ports(refused));
        }
        let address = format!("127.0.0.1:{}", PORTS.start + (start + tried) % range);
        match TcpListener::bind(&address) {
            Ok(_) => return Ok(address),
            Err(error) => refused = error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn addresses_differ_and_lie_below_the_kernels_own() {
        let addresses =
            [free_addresses(6).expect("ports"), free_addresses(6).expect("ports")].concat();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 12);
        for address in addresses {
            let port: u32 =
                address.strip_prefix("127.0.0.1:").expect("loopback").parse().expect("a port");
            assert!(PORTS.contains(&port), "{address}");
        }
    }
}
