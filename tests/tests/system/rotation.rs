//! The certificates of all processes and clients are replaced, and their authorities too, while
//! clients work. No operation fails.

use client::{AcquireOptions, Client, ClientOptions};
use nix::sys::signal::Signal;
use palisade_tests::authority::{Authority, Pair, Says};
use palisade_tests::files::Files;
use palisade_tests::handshake::{der, shake};
use palisade_tests::{Cluster, LIMIT, Secured, Spec, eventually};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

const CLIENTS: usize = 256;
/// Pause of a client between two locks, so that all of them together leave some of the machine to
/// the handshakes.
const PAUSE: Duration = Duration::from_millis(200);
/// The lock that a client keeps has no other owner before the test ends.
const KEEPS: Duration = Duration::from_secs(3_600);

const POLICY: &str = r#"
roles: { all: { hold: [""], read: [""], observe: true } }
bindings: [{ identities: ["spiffe://jobs/nightly"], roles: [all] }]
"#;

/// The clients. A failure says which client and operation it was.
type Workers = JoinSet<Result<(), String>>;

/// What the clients share.
#[derive(Default)]
struct Work {
    is_over: AtomicBool,
    /// The rounds of each client.
    rounds: Vec<AtomicU64>,
}

impl Work {
    /// Waits until each client has begun and ended some more rounds. Panics with the failure of a
    /// client.
    async fn goes_on(&self, workers: &mut Workers) {
        let rounds = || self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed));
        let before: Vec<u64> = rounds().collect();
        eventually("each client goes on", async || {
            if let Some(ended) = workers.try_join_next() {
                panic!("a client ended: {ended:?}");
            }
            rounds().zip(&before).all(|(now, before)| now >= before + 2).then_some(())
        })
        .await;
    }
}

/// Keeps one lock, and takes and releases others. The first failure ends it.
async fn work(client: Client, number: usize, shared: Arc<Work>) -> Result<(), String> {
    let failed = |what: &str, error: client::Error| format!("client {number}: {what}: {error}");
    let kept = format!("kept/{number}");
    let options = AcquireOptions::new(&kept).ttl(KEEPS);
    let token = client.acquire(options).await.map_err(|e| failed("keep", e))?.fencing_token;
    let mut last = 0;
    while !shared.is_over.load(Ordering::Relaxed) {
        let name = format!("job/{number}");
        let grant = client.acquire(name.as_str()).await.map_err(|e| failed("acquire", e))?;
        if grant.fencing_token <= last {
            return Err(format!("client {number}: token {} after {last}", grant.fencing_token));
        }
        last = grant.fencing_token;
        client.renew(&kept, token).await.map_err(|e| failed("renew", e))?;
        let released = client.release(&name, grant.fencing_token).await;
        released.map_err(|e| failed("release", e))?;
        shared.rounds[number].fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    client.release(&kept, token).await.map(drop).map_err(|e| failed("let go", e))
}

/// The pairs that this test shows to the processes of the cluster.
struct Probes {
    inside: Pair,
    client: Pair,
}

impl Probes {
    fn of(inside: &Authority, clients: &Authority) -> Probes {
        Probes {
            inside: inside.issue_role("palisade://test/gateway/a"),
            client: clients.issue(&Says { uris: &["spiffe://jobs/probe"], ..Says::default() }),
        }
    }

    /// What each process shows to these pairs, nodes first. An error says that the process does not
    /// accept them.
    async fn shown(&self, cluster: &Cluster) -> Vec<Result<Vec<u8>, String>> {
        let addresses = cluster.addresses();
        let (gateway, nodes) = addresses.split_last().expect("a gateway");
        let mut shown = Vec::new();
        for node in nodes {
            shown.push(shake(node, Some(&self.inside)).await);
        }
        shown.push(shake(gateway, Some(&self.client)).await);
        shown
    }
}

/// An established connection to a process of the cluster: its end here, the port of the process,
/// and the socket's inode, which tells it from a later one between the same ports.
type Connection = (u16, u16, u64);

/// The established connections to the processes: of clients, of gateways and between nodes.
fn connections(cluster: &Cluster) -> BTreeSet<Connection> {
    let port = |address: &str| address.rsplit(':').next().and_then(|port| port.parse().ok());
    let ports: BTreeSet<u16> = cluster.addresses().iter().filter_map(|a| port(a)).collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let parse = |line: &str| {
        const ESTABLISHED: &str = "01";
        let fields: Vec<&str> = line.split_whitespace().collect();
        let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
        let (here, there) = (port(fields.get(1)?)?, port(fields.get(2)?)?);
        let inode = fields.get(9)?.parse().ok()?;
        let is_it = fields.get(3) == Some(&ESTABLISHED) && ports.contains(&there);
        is_it.then_some((here, there, inode))
    };
    table.lines().skip(1).filter_map(parse).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_the_old_authorities_is_replaced_under_load_and_no_operation_fails() {
    let files = Files::new();
    let secured = Secured {
        tls: files.tls(),
        access: Some(files.access(POLICY)),
        observer: files.security("client"),
    };
    let cluster =
        Cluster::start(Spec { shards: 2, secured: Some(secured), ..Spec::default() }).await;
    let rounds = (0..CLIENTS).map(|_| AtomicU64::new(0)).collect();
    let shared = Arc::new(Work { rounds, ..Work::default() });
    let mut workers = Workers::new();
    for number in 0..CLIENTS {
        // Each has a connection of its own. A busy machine takes its time for so many handshakes.
        let options = ClientOptions::new().timeout(LIMIT).security(files.security("client"));
        let client = Client::with_options([cluster.gateway(1)], options);
        workers.spawn(work(client, number, shared.clone()));
    }
    shared.goes_on(&mut workers).await;

    // 1. Both authorities are trusted.
    let (inside, clients) = (Authority::new("inside 2"), Authority::new("clients 2"));
    let old = Probes::of(&files.inside, &files.clients);
    let new = Probes::of(&inside, &clients);
    assert!(new.shown(&cluster).await.iter().all(Result::is_err), "not trusted yet");
    files.write("inside-ca.crt", &(files.inside.pem() + &inside.pem()));
    files.write("clients-ca.crt", &(files.clients.pem() + &clients.pem()));
    cluster.signal_all(Signal::SIGHUP);
    eventually("all processes trust both", async || {
        new.shown(&cluster).await.iter().all(Result::is_ok).then_some(())
    })
    .await;
    shared.goes_on(&mut workers).await;

    // 2. All certificates are of the new ones.
    let of_the_old = connections(&cluster);
    files.issue_all(&inside, &clients);
    cluster.signal_all(Signal::SIGHUP);
    let certificates = ["node-1", "node-2", "node-3", "server"];
    let certificates = certificates.map(|name| Ok(der(&files.path(&format!("{name}.crt")))));
    eventually("all processes show their new certificates", async || {
        (new.shown(&cluster).await == certificates).then_some(())
    })
    .await;
    shared.goes_on(&mut workers).await;

    // 3. The old ones are not trusted any more.
    files.write("inside-ca.crt", &inside.pem());
    files.write("clients-ca.crt", &clients.pem());
    cluster.signal_all(Signal::SIGHUP);
    eventually("no process accepts the old authorities", async || {
        old.shown(&cluster).await.iter().all(Result::is_err).then_some(())
    })
    .await;
    shared.goes_on(&mut workers).await;
    assert_eq!(new.shown(&cluster).await, certificates);
    eventually("no connection of the old authorities is left", async || {
        connections(&cluster).is_disjoint(&of_the_old).then_some(())
    })
    .await;
    shared.goes_on(&mut workers).await;
    assert!(of_the_old.len() > CLIENTS, "clients, gateway and peers: {of_the_old:?}");

    // New clients and nodes work with the new certificates alone.
    let late = cluster.client();
    let grant = late.acquire("job/late").await.expect("a new client works");
    late.release("job/late", grant.fencing_token).await.expect("a new client works");
    shared.is_over.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker.expect("no client panics").expect("no operation fails");
    }
    let rounds: u64 = shared.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed)).sum();
    println!("{CLIENTS} clients did {} operations", 3 * rounds);
}
