//! The listening side of pages over HTTP, such as `/metrics`.

use super::{Accepted, Connection, Incoming};
use axum::serve::Listener;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Connections to pages. Few programs ask for them, and each connection takes a descriptor that
/// locks could use.
const OPEN_MAX: usize = 64;

impl Incoming<()> {
    /// Takes connections to pages: without TLS, and few of them.
    pub fn for_pages(listener: TcpListener) -> Incoming<()> {
        Incoming::new(listener, Arc::<Accepted>::default(), OPEN_MAX, None, |_| ())
    }
}

impl Listener for Incoming<()> {
    type Io = Connection<()>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection<()>, SocketAddr) {
        loop {
            let next =
                poll_fn(|context| futures_core::Stream::poll_next(Pin::new(&mut *self), context));
            match next.await {
                Some(Ok(connection)) => {
                    let remote = connection.peer().remote;
                    return (connection, remote);
                }
                Some(Err(error)) => tracing::debug!(%error, "a connection was not taken"),
                None => pending().await, // never: a listener has no end
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// A test that takes this long hangs.
    const HANGS_AFTER: Duration = Duration::from_secs(20);

    /// Regression: pages took any number of connections, up to the last descriptor of the process.
    #[tokio::test]
    async fn pages_are_served_to_a_bounded_number_of_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = Incoming::for_pages(listener);
        let accepted = incoming.accepted.clone();
        let routes = axum::Router::new().route("/page", axum::routing::get(|| async { "text" }));
        let serving = tokio::spawn(async move { axum::serve(incoming, routes).await });
        let test = async {
            let mut open = Vec::new();
            while accepted.refused() == 0 {
                open.push(TcpStream::connect(address).await.unwrap());
                tokio::task::yield_now().await;
            }
            assert!(accepted.open() <= OPEN_MAX / 2, "half of them for one source");
            drop(open);
            let mut page = String::new();
            while !page.ends_with("text") {
                page.clear();
                let mut asks = TcpStream::connect(address).await.unwrap();
                let request = b"GET /page HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
                // A connection is refused until the server has seen the end of the others.
                if asks.write_all(request).await.is_ok() {
                    let _ = asks.read_to_string(&mut page).await;
                }
            }
        };
        tokio::time::timeout(HANGS_AFTER, test).await.expect("bounded, and served again");
        serving.abort();
    }
}
