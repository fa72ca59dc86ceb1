//! Faults around the core of the cluster.
//!
//! Clients end while they wait, client machines sleep, leaders move all the time, and gateways know
//! an old address.

use super::{Stage, Wound};
use crate::cluster::SHARDS;
use crate::error::{Because, Error};
use client::{AcquireOptions, Client, ClientOptions, Consistency};
use local_cluster::{Launch, Member};
use palisade_tests::palisade_binary;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// The longest time until an expected change becomes visible. A longer time is a failure.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);
/// The longest time until a lock passes to the next waiter, if the client before it is dead or
/// silent. It is far below the TTL that the dead client asked for.
const PASSED_ON_WITHIN: Duration = Duration::from_secs(25);
const DEAD_TTL: &str = "120s";
/// The TTL of an abandoned lock. Leaders move more often than this.
const ABANDONED_TTL: Duration = Duration::from_secs(6);
/// The longest life of an abandoned lock: its TTL, an election, and the pauses of leaders.
const ABANDONED_ENDS_WITHIN: Duration = Duration::from_secs(16);
const MOVES_MIN: u32 = 2;

/// A process that is killed and reaped when this is dropped, if not earlier.
struct Job(Child);

impl Job {
    fn start(command: &mut Command) -> Result<Job, Error> {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.spawn().map(Job).because("a client")
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        // The signal fails only if the process has ended, and another check shows that.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.0.id() as i32), signal);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stage<'_> {
    /// A holds a lock, B waits, and C waits behind B. B is killed, or falls silent with its
    /// connection open. Then A releases the lock. C must get it soon, and not only after B's TTL.
    pub(super) async fn kill_in_queue(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::lasting_s(self.rng, 3, 5);
        let shard = self.rng.below(SHARDS.into()) as u32;
        let name = self.fresh_name(shard);
        let client = self.cluster.client(Duration::from_secs(10));
        let failed = |error: client::Error| Error::caused("a client killed in the queue", error);
        let held = client
            .acquire(AcquireOptions::new(&name).ttl(Duration::from_secs(60)))
            .await
            .map_err(failed)?;
        let waiter = Job::start(
            &mut self
                .cli(&["acquire", &name, "--owner", "dead", "--ttl", DEAD_TTL, "--wait", "90s"]),
        )?;
        if !queue_reaches(&client, &name, 1).await {
            return Err(Error::Reason(format!(
                "no waiter for {name} was shown within {SHOWN_WITHIN:?}"
            )));
        }
        let next =
            AcquireOptions::new(&name).ttl(Duration::from_secs(5)).wait(Duration::from_secs(60));
        let behind = tokio::spawn({
            let client = client.clone();
            async move { client.acquire(next).await }
        });
        if !queue_reaches(&client, &name, 2).await {
            return Err(Error::Reason(format!(
                "a second waiter for {name} was not shown within {SHOWN_WITHIN:?}"
            )));
        }
        let silent = self.rng.percent(50);
        use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};
        waiter.signal(if silent { SIGSTOP } else { SIGKILL });
        wound
            .notes
            .push(format!("the first waiter was {}", if silent { "stopped" } else { "killed" }));
        client.release(&name, held.fencing_token).await.map_err(failed)?;
        match timeout(PASSED_ON_WITHIN, behind).await {
            Ok(Ok(Ok(grant))) => {
                let _ = client.release(&name, grant.fencing_token).await;
            }
            Ok(answer) => {
                wound.failures.push(format!("the waiter behind a dead one got {answer:?}"))
            }
            Err(_) => wound.failures.push(format!(
                "the waiter behind a dead one had no lock within {PASSED_ON_WITHIN:?}: it waits \
                 for a TTL that serves no one"
            )),
        }
        Ok(wound.serves())
    }

    /// Pauses the leader of a shard past the election timeout, again and again, so that leadership
    /// moves more often than a lease lasts. A lock that its holder abandoned must still end.
    pub(super) async fn move_leaders(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::default();
        let shard = self.rng.below(SHARDS.into()) as u32;
        let name = self.fresh_name(shard);
        let client = self.cluster.client(Duration::from_secs(20));
        let failed = |error: client::Error| Error::caused("an abandoned lock", error);
        client.acquire(AcquireOptions::new(&name).ttl(ABANDONED_TTL)).await.map_err(failed)?;
        let next =
            AcquireOptions::new(&name).ttl(Duration::from_secs(2)).wait(2 * ABANDONED_ENDS_WITHIN);
        let asked = Instant::now();
        let mut waiting = tokio::spawn({
            let client = client.clone();
            async move { client.acquire(next).await }
        });
        let mut moves = 0;
        let mut term = 0;
        let answer = loop {
            let leader =
                self.cluster.leaders().await.and_then(|leaders| leaders.get(&shard).copied());
            if let Some(leader) = leader {
                moves += u32::from(term != 0 && leader.term > term);
                term = leader.term;
                let leader = Member::Node(leader.node);
                self.cluster.processes.pause(leader);
                sleep(Duration::from_millis(1_800)).await;
                self.cluster.processes.resume(leader);
            }
            match timeout(Duration::from_millis(700), &mut waiting).await {
                Ok(answer) => break Some(answer),
                Err(_) if asked.elapsed() > ABANDONED_ENDS_WITHIN => break None,
                Err(_) => {}
            }
        };
        match answer {
            Some(Ok(Ok(grant))) => {
                let _ = client.release(&name, grant.fencing_token).await;
            }
            Some(other) => {
                wound.failures.push(format!("the waiter for an abandoned lock got {other:?}"))
            }
            None => {
                waiting.abort();
                wound.failures.push(format!(
                    "a lock of {ABANDONED_TTL:?} that its holder abandoned was held after {:?} and {moves} moves of its leader",
                    asked.elapsed()
                ));
            }
        }
        if moves < MOVES_MIN {
            wound.failures.push(format!(
                "leadership of shard {shard} moved {moves} times, so nothing was shown"
            ));
        }
        wound.notes.push(format!(
            "leadership of shard {shard} moved {moves} times in {:?}",
            asked.elapsed()
        ));
        Ok(wound.serves())
    }

    /// The machine of a client sleeps for an hour, according to one of its clocks. `palisade lock`
    /// must treat its lock as lost and end its job, although the monotonic clock has not moved.
    pub(super) async fn suspend_a_client(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::lasting_s(self.rng, 3, 5);
        let library = self.tools.suspend.clone().ok_or("the library for suspends is missing")?;
        let slept = self.cluster.processes.dir().join("cluster.slept");
        let sleeps =
            |seconds: u32| std::fs::write(&slept, seconds.to_string()).because(slept.display());
        sleeps(0)?;
        let shard = self.rng.below(SHARDS.into()) as u32;
        let name = self.fresh_name(shard);
        let client = self.cluster.client(Duration::from_secs(10));
        let mut command = self.cli(&["lock", &name, "--ttl", "120s", "--", "sleep", "100"]);
        command.env("LD_PRELOAD", library).env("PALISADE_SUSPENDED", &slept);
        let mut job = Job::start(&mut command)?;
        if !holds_soon(&client, &name).await {
            return Err(Error::Reason(format!("{name} was not held within {SHOWN_WITHIN:?}")));
        }
        sleep(Duration::from_millis(500)).await;
        sleeps(3_600)?;
        let asked = Instant::now();
        loop {
            match job.0.try_wait() {
                Ok(Some(status)) if !status.success() => break,
                Ok(Some(status)) => {
                    wound
                        .failures
                        .push(format!("after a suspend `palisade lock` ended with {status}"));
                    break;
                }
                _ if asked.elapsed() > PASSED_ON_WITHIN => {
                    wound.failures.push(
                        "after a suspend of an hour `palisade lock` goes on with its job".into(),
                    );
                    break;
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
        Ok(wound.serves())
    }

    /// A gateway starts with a cluster file from before a leader moved to another address. The
    /// gateway must find the leader's new address and serve its shards.
    pub(super) async fn give_old_address(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::lasting_s(self.rng, 3, 5);
        let leader = self.some_leader();
        let gateway = Member::Gateway(self.rng.range(1, crate::cluster::GATEWAYS));
        let mut before = self.cluster.processes.config().clone();
        let moved = before
            .nodes
            .iter_mut()
            .find(|node| node.id.0 == leader)
            .ok_or("the leader is in the cluster file")?;
        let (host, _) = moved.address.rsplit_once(':').ok_or("an address has a port")?;
        moved.address = format!("{host}:9");
        let old = self.cluster.processes.dir().join("cluster.old.yaml");
        self.cluster.processes.write_config(&old, &before).map_err(Error::other)?;
        wound.check(self.cluster.stop(gateway).await);
        self.cluster.launch(gateway, &Launch { config: Some(old), ..Launch::default() });
        let options = ClientOptions::new().timeout(PASSED_ON_WITHIN).owner("conductor");
        let through =
            Client::with_options([self.cluster.network.address(gateway).to_owned()], options);
        for shard in 0..SHARDS {
            let name = self.fresh_name(shard);
            match through.acquire(AcquireOptions::new(&name).ttl(Duration::from_secs(2))).await {
                Ok(grant) => {
                    let _ = through.release(&name, grant.fencing_token).await;
                }
                Err(error) => wound.failures.push(format!(
                    "{gateway} knows an old address of node {leader}, and does not serve shard \
                     {shard}: {error}"
                )),
            }
        }
        Ok(wound.serves())
    }

    /// The `palisade` program with the endpoints of all gateways.
    fn cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(palisade_binary());
        command
            .args(&args[..1])
            .args(["--endpoint", &self.cluster.processes.endpoints().join(",")])
            .args(&args[1..]);
        command
    }
}

async fn queue_reaches(client: &Client, name: &str, waiters: u32) -> bool {
    shows(client, name, |checked| checked.waiters >= waiters).await
}

async fn holds_soon(client: &Client, name: &str) -> bool {
    shows(client, name, |checked| !checked.holders.is_empty()).await
}

async fn shows(client: &Client, name: &str, wanted: impl Fn(&client::Checked) -> bool) -> bool {
    let asked = Instant::now();
    while asked.elapsed() < SHOWN_WITHIN {
        if client.check(name, Consistency::Linearizable).await.is_ok_and(|checked| wanted(&checked))
        {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}
