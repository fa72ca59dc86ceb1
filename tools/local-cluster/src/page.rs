//! Pages that nodes and gateways serve over HTTP: `/metrics`, `/healthz`.

use crate::ClusterError;
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Time limit for a page. After it, the process counts as not answering.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Reads the page at `address` (`host:port`), with its status line and headers.
///
/// # Errors
/// If the address does not answer within ten seconds.
pub fn page(address: &str, page: &str) -> Result<String, ClusterError> {
    read(address, page).map_err(|source| ClusterError::Page {
        address: address.to_owned(),
        page: page.to_owned(),
        source,
    })
}

fn read(address: &str, page: &str) -> io::Result<String> {
    let resolved = address.to_socket_addrs()?.next();
    let resolved = resolved.ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))?;
    let mut stream = TcpStream::connect_timeout(&resolved, ANSWERS_WITHIN)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    write!(stream, "GET {page} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The counters and gauges on a page of metrics by name, each the sum over all labels. The group of
/// the topology is left out, because it is no shard of locks.
///
/// ```
/// let page = "palisade_a{shard=\"0\"} 2\npalisade_a{shard=\"1\"} 3\nother 7\n";
/// assert_eq!(palisade_local_cluster::metric_sums(page)["palisade_a"], 5.0);
/// ```
pub fn metric_sums(page: &str) -> BTreeMap<String, f64> {
    let mut sums: BTreeMap<String, f64> = BTreeMap::new();
    let of_meta = |line: &&str| line.contains("{shard=\"meta\"");
    for line in page.lines().filter(|line| line.starts_with("palisade_") && !of_meta(line)) {
        let Some((head, value)) = line.rsplit_once(' ') else { continue };
        let name = head.split('{').next().unwrap_or(head);
        if let Ok(value) = value.parse::<f64>() {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# HELP palisade_a x\npalisade_a{shard=\"0\"} 2\npalisade_a{shard=\"1\"} 3\npalisade_a{shard=\"meta\"} 1\n\
                    palisade_b 1.5\nother 7\npalisade_c x\n";
        assert_eq!(
            metric_sums(text),
            BTreeMap::from([("palisade_a".to_owned(), 5.0), ("palisade_b".to_owned(), 1.5)])
        );
    }
}
