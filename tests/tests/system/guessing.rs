//! Another identity guesses tokens, request ids and session ids. It learns nothing and changes
//! nothing.

use client::{AcquireOptions, Client, SessionOptions, endpoint};
use link::mux::{Answer, Failure, Link, LinkOptions, Locks};
use palisade_tests::files::Files;
use palisade_tests::{Cluster, LIMIT, Secured, Spec, eventually};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinSet;
use wire::v1::operation::Op;
use wire::v1::*;

const SHARDS: u32 = 2;
const TRIES: usize = 100_000;
const BATCH: usize = 1_000;
/// Time of one operation of a try. Its batch is answered long before.
const TRY_MS: u64 = 60_000;
/// No lease ends during the test, because an end would change what the test compares.
const LONG: Duration = Duration::from_secs(3_600);

/// mallory may hold what alice may hold, and nothing more.
const POLICY: &str = r#"
roles:
  hold: { hold: ["job/"] }
  read: { read: ["job/"] }
  observe: { observe: true }
bindings:
  - { identities: [alice, carol], roles: [hold, read] }
  - { identities: [mallory], roles: [hold] }
  - { identities: ["spiffe://jobs/nightly"], roles: [observe] }
"#;

/// What mallory would like to know. Tokens and request ids stand with their names.
#[derive(Default)]
struct Secrets {
    /// Tokens that alice holds.
    held: Vec<(String, u64)>,
    /// Tokens that alice has released.
    released: Vec<(String, u64)>,
    /// Tokens that carol holds, of names that alice waits for.
    wanted: Vec<(String, u64)>,
    /// Of alice's grants and waits.
    requests: Vec<(String, [u8; 16])>,
    /// Of alice.
    sessions: Vec<String>,
}

impl Secrets {
    fn tokens(&self) -> Vec<(String, u64)> {
        [&self.held[..], &self.released, &self.wanted].concat()
    }
}

/// What the leader of a shard says about its table: locks, waits, sessions, and the last token. The
/// state hash is left out, because a cancel or a close of what is not known is remembered.
type Counts = (u64, u64, u64, u64);

async fn counts(cluster: &Cluster) -> BTreeMap<u32, Counts> {
    eventually("each shard has a leader", async || {
        let status = cluster.try_status().await?;
        let leaders = status.shards.iter().filter(|replica| replica.role == "leader");
        let of = |s: &ShardStatus| (s.shard, (s.active_locks, s.waiters, s.sessions, s.last_token));
        let counts: BTreeMap<u32, Counts> = leaders.map(of).collect();
        (counts.len() == SHARDS as usize).then_some(counts)
    })
    .await
}

/// alice takes locks of her own and by sessions, releases some, and waits for two that carol has.
/// The second part of the result has her waits.
async fn settle(cluster: &Cluster, alice: &Client, carol: &Client) -> (Secrets, JoinSet<u64>) {
    let (mut has, mut waits) = (Secrets::default(), JoinSet::new());
    for shard in 0..SHARDS {
        let session = alice.open_session_raw(SessionOptions::new().ttl(LONG)).await.unwrap();
        for n in 0..8u8 {
            let name = cluster.name_on(shard, &format!("job/{n}"));
            let id = [1 + 16 * shard as u8 + n; 16];
            let mut options = AcquireOptions::new(&name).ttl(LONG).request_id(id);
            if n % 2 == 1 {
                options = options.session(&session.session_id);
            }
            let token = alice.acquire(options).await.unwrap().fencing_token;
            has.requests.push((name.clone(), id));
            if n % 4 == 0 {
                alice.release(&name, token).await.unwrap();
                has.released.push((name, token));
            } else {
                has.held.push((name, token));
            }
        }
        has.sessions.push(session.session_id);
        let name = cluster.name_on(shard, "job/wanted");
        let of_carol = carol.acquire(AcquireOptions::new(&name).ttl(LONG)).await.unwrap();
        has.wanted.push((name.clone(), of_carol.fencing_token));
        let id = [0xa0 + shard as u8; 16];
        has.requests.push((name.clone(), id));
        let waiting = AcquireOptions::new(&name).ttl(LONG).wait(LONG / 6).request_id(id);
        let alice = alice.clone();
        waits.spawn(async move { alice.acquire(waiting).await.unwrap().fencing_token });
    }
    eventually("alice waits", async || {
        let waiting: u64 = counts(cluster).await.values().map(|counts| counts.1).sum();
        (waiting == u64::from(SHARDS)).then_some(())
    })
    .await;
    (has, waits)
}

/// One try, and its kind. Every eleventh guess is right, and the others are near it.
fn guess(has: &Secrets, n: usize) -> (&'static str, Op) {
    let round = n / 6;
    let off = round % 11;
    let tokens = has.tokens();
    let (name, token) = tokens[round % tokens.len()].clone();
    let fencing_token = (token + off as u64).saturating_sub(5).max(1);
    let near = |id: [u8; 16]| {
        let mut id = id;
        id[15] ^= (off as u8).wrapping_sub(5);
        id.to_vec()
    };
    let session = &has.sessions[round % has.sessions.len()];
    let session_id = match off {
        5 => session.clone(),
        off => {
            // Session ids have ASCII letters and digits only.
            let (start, last) = session.split_at(session.len() - 1);
            let other = (b'a'..=b'p').filter(|letter| [*letter] != last.as_bytes()).nth(off);
            format!("{start}{}", char::from(other.unwrap()))
        }
    };
    match n % 6 {
        0 => ("renew", Op::Renew(RenewRequest { name, fencing_token })),
        1 => ("release", Op::Release(ReleaseRequest { name, fencing_token, session_life: 0 })),
        2 => {
            let (name, id) = has.requests[round % has.requests.len()].clone();
            ("cancel", Op::CancelWait(CancelWaitRequest { name, request_id: near(id) }))
        }
        3 => {
            let leases = (0..SHARDS).map(|shard| SessionLease { shard, ..Default::default() });
            let request = HeartbeatRequest { session_id, leases: leases.collect() };
            ("heartbeat", Op::Heartbeat(request))
        }
        4 => {
            let shards = (0..SHARDS).collect();
            ("close", Op::CloseSession(CloseSessionRequest { session_id, shards }))
        }
        _ => {
            let (reason, broken_by) = ("guess".into(), "mallory".into());
            ("break", Op::BreakLock(BreakLockRequest { name, fencing_token, reason, broken_by }))
        }
    }
}

/// The same question about what nobody has.
fn about_nothing(op: Op) -> Op {
    let name = || "job/nobody".to_owned();
    match op {
        Op::Renew(request) => Op::Renew(RenewRequest { name: name(), ..request }),
        Op::Release(request) => Op::Release(ReleaseRequest { name: name(), ..request }),
        Op::CancelWait(request) => Op::CancelWait(CancelWaitRequest { name: name(), ..request }),
        Op::Heartbeat(request) => {
            Op::Heartbeat(HeartbeatRequest { session_id: "0".repeat(32), ..request })
        }
        Op::CloseSession(request) => {
            Op::CloseSession(CloseSessionRequest { session_id: "0".repeat(32), ..request })
        }
        Op::BreakLock(request) => Op::BreakLock(BreakLockRequest { name: name(), ..request }),
        other => other,
    }
}

/// An answer as the guesser sees it, all of it.
async fn told(link: Link<Locks>, op: Op) -> String {
    let is_break = matches!(op, Op::BreakLock(_));
    match link.call(Operation::of(op), TRY_MS).await {
        Ok(Answer::Heartbeat(mut told)) => {
            told.lost_shards.sort_unstable();
            format!("{told:?}")
        }
        Ok(told) => format!("{told:?}"),
        // The refusal repeats the name that was asked about, so only its code is compared.
        Err(Failure::Refused(error)) if is_break => format!("{:?}", error.code()),
        Err(Failure::Refused(error)) => format!("{error:?}"),
        Err(failure) => panic!("not answered: {failure:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guesser_learns_nothing_and_changes_nothing() {
    let files = Files::new();
    ["alice", "carol", "mallory"].iter().for_each(|identity| files.issue_client(identity));
    let secured = Secured {
        tls: files.tls(),
        access: Some(files.access(POLICY)),
        observer: files.security("client"),
    };
    let cluster =
        Cluster::start(Spec { shards: SHARDS, secured: Some(secured), ..Spec::default() }).await;
    let [alice, carol] = ["alice", "carol"].map(|who| cluster.client_with(files.security(who)));
    let (has, mut waits) = settle(&cluster, &alice, &carol).await;
    let before = counts(&cluster).await;

    let target = endpoint::target(&cluster.endpoints(), &files.security("mallory")).unwrap();
    let link: Link<Locks> = Link::start(target, LinkOptions::default());
    let mut unknown = BTreeMap::new();
    for n in 0..6 {
        let (kind, op) = guess(&has, n);
        unknown.insert(kind, told(link.clone(), about_nothing(op)).await);
    }
    println!("of what nobody has, mallory is told: {unknown:#?}");
    for (kind, words) in [
        ("renew", "NotOwner"),
        ("release", "NotOwner"),
        ("cancel", "cancelled: false, grant: None"),
        ("heartbeat", "lost_shards: [0, 1]"),
        ("close", "released: 0"),
        ("break", "PermissionDenied"),
    ] {
        assert!(unknown[kind].contains(words), "{kind}: {}", unknown[kind]);
    }

    for batch in 0..TRIES / BATCH {
        let mut answers = JoinSet::new();
        for n in batch * BATCH..(batch + 1) * BATCH {
            let ((kind, op), link) = (guess(&has, n), link.clone());
            answers.spawn(async move { (kind, format!("{op:?}"), told(link, op).await) });
        }
        while let Some(answered) = answers.join_next().await {
            let (kind, op, told) = answered.unwrap();
            assert_eq!(told, unknown[kind], "{op}");
        }
    }
    assert_eq!(counts(&cluster).await, before, "after {TRIES} tries");

    // What alice has is still hers.
    for (name, token) in &has.held {
        alice.renew(name, *token).await.unwrap();
    }
    for session in &has.sessions {
        let beat = alice.heartbeat(session, &(0..SHARDS).collect::<Vec<u32>>()).await.unwrap();
        assert_eq!(beat.lost_shards.len(), SHARDS as usize - 1, "{beat:?}");
    }
    for (name, token) in &has.wanted {
        carol.release(name, *token).await.unwrap();
    }
    for _ in &has.wanted {
        let granted = tokio::time::timeout(LIMIT, waits.join_next()).await.expect("granted");
        assert!(granted.unwrap().unwrap() > 0);
    }
    cluster.replicas_agree().await;
}
