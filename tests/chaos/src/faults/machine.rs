//! Faults of a process's machine.
//!
//! Clocks jump or run at another rate. Disks are full, fail to sync, or return other bits than were
//! written.

use super::{Stage, Wound};
use crate::cluster::NODES;
use crate::error::{Because, Error};
use crate::probe::all_back;
use client::{AcquireOptions, Client};
use local_cluster::{Launch, Member};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// The longest time until a restarted node takes part again. A longer time is a failure.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// The longest wait until leadership returns to a restarted node. A missing return does not affect
/// safety.
const LEADS_WITHIN: Duration = Duration::from_secs(10);
const HOUR_S: i64 = 3_600;
/// The room that is left on the full disk. It is less than RocksDB's log reservation plus the
/// node's reserve, and more than the reserve alone, so that the node keeps its reserve.
const LEFT_BYTES: u64 = 40 << 20;

impl Stage<'_> {
    /// Sets the wall clock of a running leader an hour ahead and an hour back. Neither jump may
    /// have an effect.
    pub(super) async fn jump_wall_clock(&mut self) -> Result<Wound, Error> {
        let setting = self.cluster.processes.dir().join("cluster.clock");
        let set = |offset_s: i64| {
            std::fs::write(&setting, format!("{offset_s:+}")).because(setting.display())
        };
        set(0)?;
        let env = [
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_TIMESTAMP_FILE", setting.display().to_string()),
        ];
        let mut wound = Wound::default();
        let (id, shard) = self.with_other_clock(&env, &mut wound).await?;
        for ahead_s in [HOUR_S, -HOUR_S] {
            set(ahead_s)?;
            sleep(Duration::from_secs(3)).await;
            if let Some(shown_s) = self.shown_ahead_s(id, shard).await
                && (shown_s - ahead_s).abs() > 60
            {
                wound.failures.push(format!(
                    "node {id}'s wall clock was set {ahead_s} s ahead, and its grants show \
                     {shown_s} s: it took no effect"
                ));
            }
        }
        Ok(wound.serves())
    }

    /// The clocks of a leader run at another rate, from half to double. Leases therefore end sooner
    /// or later, but tokens must still fence.
    pub(super) async fn drift(&mut self) -> Result<Wound, Error> {
        let rate = *self.rng.pick(&[0.5, 1.5, 2.0]);
        let mut wound = Wound { drifted: true, ..Wound::lasting_s(self.rng, 6, 8) };
        let env = [("FAKETIME", format!("+0 x{rate}"))];
        let (id, shard) = self.with_other_clock(&env, &mut wound).await?;
        const TTL: Duration = Duration::from_secs(2);
        if let Some(lived) = self.lease_life(id, shard, TTL).await {
            let expected = TTL.div_f64(rate);
            if lived < expected.mul_f64(0.9) || lived > expected + Duration::from_secs(1) {
                wound.failures.push(format!(
                    "node {id}'s clock runs at {rate} times the rate, and a lease of {TTL:?} lived \
                     for {lived:?}: it took no effect"
                ));
            }
        }
        wound.lasting += Duration::from_secs(2);
        Ok(wound.serves())
    }

    /// Restarts a leader with libfaketime preloaded, and waits until it leads again. Returns the
    /// node and one of its shards.
    async fn with_other_clock(
        &mut self,
        env: &[(&str, String)],
        wound: &mut Wound,
    ) -> Result<(u64, u32), Error> {
        let library = self.tools.faketime.clone().ok_or("libfaketime is missing")?;
        let mut env: Vec<(String, String)> =
            env.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        env.push(("LD_PRELOAD".to_owned(), library.display().to_string()));
        self.leader_with(env, wound).await
    }

    /// Restarts a leader in another environment, and waits until it leads again. Returns the node
    /// and one of its shards.
    pub(super) async fn leader_with(
        &mut self,
        env: Vec<(String, String)>,
        wound: &mut Wound,
    ) -> Result<(u64, u32), Error> {
        let id = self.some_leader();
        let shard =
            self.leaders.iter().find(|(_, node)| **node == id).map_or(0, |(shard, _)| *shard);
        self.restart(id, Launch { env, ..Launch::default() }, wound).await;
        let asked = Instant::now();
        while !self.leads(id, shard).await && asked.elapsed() < LEADS_WITHIN {
            sleep(Duration::from_millis(200)).await;
        }
        Ok((id, shard))
    }

    pub(super) async fn restart(&mut self, id: u64, launch: Launch, wound: &mut Wound) {
        wound.check(self.cluster.stop(Member::Node(id)).await);
        self.cluster.launch(Member::Node(id), &launch);
        if !all_back(self.cluster, BACK_WITHIN).await {
            wound
                .failures
                .push(format!("node {id} was restarted, and was not back within {BACK_WITHIN:?}"));
        }
    }

    pub(super) async fn leads(&self, id: u64, shard: u32) -> bool {
        let leaders = self.cluster.leaders().await;
        leaders.is_some_and(|leaders| leaders.get(&shard).is_some_and(|leader| leader.node == id))
    }

    pub(super) fn fresh_name(&mut self, shard: u32) -> String {
        let nonce = self.rng.next_u64();
        let mut names = (0..).map(|n| format!("clock/{nonce:x}-{n}"));
        names
            .find(|name| self.cluster.map.route(name).shard.0 == shard)
            .expect("every shard has names")
    }

    /// The lead of the wall clock with which a node stamps its grants. `None` if the node does not
    /// lead the shard, before or after.
    async fn shown_ahead_s(&mut self, id: u64, shard: u32) -> Option<i64> {
        let name = self.fresh_name(shard);
        let client = self.cluster.client(Duration::from_secs(3));
        if !self.leads(id, shard).await {
            return None;
        }
        let grant =
            client.acquire(AcquireOptions::new(name).ttl(Duration::from_secs(1))).await.ok()?;
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis() as i64;
        self.leads(id, shard).await.then_some((grant.acquired_at_ms as i64 - now_ms) / 1_000)
    }

    /// The time for which an unrenewed lease excludes others. `None` if the node does not lead the
    /// shard, before or after.
    async fn lease_life(&mut self, id: u64, shard: u32, ttl: Duration) -> Option<Duration> {
        let name = self.fresh_name(shard);
        let client: Client = self.cluster.client(Duration::from_secs(3));
        if !self.leads(id, shard).await {
            return None;
        }
        let asked = Instant::now();
        client.acquire(AcquireOptions::new(&name).ttl(ttl)).await.ok()?;
        client.acquire(AcquireOptions::new(&name).ttl(ttl).wait(5 * ttl)).await.ok()?;
        let lived = asked.elapsed();
        self.leads(id, shard).await.then_some(lived)
    }

    /// The last node's disk has no room left. The node must stop rather than acknowledge. It then
    /// starts again with the room that it kept for this case, and goes on for as long as that room
    /// lasts.
    ///
    /// RocksDB reserves room when it creates its log, and this room would save the node. The node
    /// therefore starts with too little room for the reservation, and loses the rest while it runs.
    pub(super) async fn fill_disk(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound { may_end: [NODES].into(), ..Wound::lasting_s(self.rng, 4, 6) };
        self.hurt.insert(NODES);
        let path = self.cluster.ballast(NODES);
        let failed = |error: std::io::Error| Error::caused(path.display(), error);
        wound.check(self.cluster.stop(Member::Node(NODES)).await);
        let mut ballast = std::fs::File::create(&path).map_err(failed)?;
        fill(&mut ballast);
        let full_bytes = ballast.metadata().map_err(failed)?.len();
        ballast.set_len(full_bytes.saturating_sub(LEFT_BYTES)).map_err(failed)?;
        ballast.seek(SeekFrom::End(0)).map_err(failed)?;
        self.cluster.start_one(Member::Node(NODES));
        if !all_back(self.cluster, BACK_WITHIN).await {
            wound.failures.push(format!(
                "node {NODES} did not start with {LEFT_BYTES} bytes left on its disk"
            ));
        }
        fill(&mut ballast);
        // The log continues in existing files, for a time that depends on the load. A start needs
        // room at once, and has the reserve for it.
        wound.notes.push("killed and started again on the full disk".into());
        self.cluster.kill(Member::Node(NODES));
        fill(&mut ballast);
        self.cluster.start_one(Member::Node(NODES));
        if !all_back(self.cluster, BACK_WITHIN).await {
            wound.failures.push(format!(
                "node {NODES} did not start again on its full disk, with the room it had kept"
            ));
        }
        Ok(wound.serves())
    }

    /// Every sync of a leader fails from now on. The leader must stop, and must not acknowledge
    /// entries that are not on its disk.
    pub(super) async fn fail_syncs(&mut self) -> Result<Wound, Error> {
        let id = self.some_leader();
        let libraries = self.tools.fiu.clone().ok_or("libfiu is missing")?;
        let pipes = self.cluster.processes.dir().join("cluster.fiu");
        let env = vec![
            ("LD_PRELOAD".to_owned(), libraries),
            ("FIU_CTRL_FIFO".to_owned(), pipes.display().to_string()),
        ];
        let mut wound = Wound::default();
        self.restart(id, Launch { env, ..Launch::default() }, &mut wound).await;
        let pid = self
            .cluster
            .processes
            .pid(Member::Node(id))
            .ok_or("the node whose syncs should fail does not run")?;
        const EIO: i32 = 5;
        // The tool waits for ever for a process that has ended or never starts.
        let told = Command::new("timeout")
            .args(["30", "fiu-ctrl", "-f"])
            .arg(&pipes)
            .args(["-c", &format!("enable name=posix/io/sync/*,failinfo={EIO}"), &pid.to_string()])
            .output()
            .because("fiu-ctrl")?;
        if !told.status.success() {
            return Err(Error::Reason(format!(
                "fiu-ctrl: {}",
                String::from_utf8_lossy(&told.stderr)
            )));
        }
        wound.must_end = [id].into();
        wound.lasting = Duration::from_secs(5);
        Ok(wound.serves())
    }

    /// Flips one bit in each of two stopped nodes: in a log of one, and in a table or manifest of
    /// the other. The first node must refuse to start. The second must refuse to start, or hold no
    /// wrong state. Both are re-seeded.
    pub(super) async fn flip_bits(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::lasting_s(self.rng, 4, 6);
        let nodes = self.shuffled();
        let victims = [nodes[0], nodes[1]];
        for id in victims {
            self.cluster.kill(Member::Node(id));
            self.cluster.mark_damaged(id);
        }
        for (id, in_log) in victims.into_iter().zip([true, false]) {
            wound.notes.push(self.flip_a_bit(&self.cluster.processes.data(id), in_log)?);
            self.cluster.start_one(Member::Node(id));
        }
        wound.must_end = [victims[0]].into();
        wound.may_end = [victims[1]].into();
        Ok(wound.serves())
    }

    fn flip_a_bit(&mut self, data: &Path, in_log: bool) -> Result<String, Error> {
        let wanted = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if in_log {
                name.ends_with(".journal")
            } else {
                name.ends_with(".sst") || name.starts_with("MANIFEST-")
            }
        };
        let mut files: Vec<PathBuf> = files_below(data).into_iter().filter(wanted).collect();
        files.retain(|path| path.metadata().is_ok_and(|meta| meta.len() > 0));
        files.sort();
        if files.is_empty() {
            return Err(Error::Reason(format!("{}: no file to flip a bit in", data.display())));
        }
        // The newest segment is taken, because this code cannot tell which of the older segments
        // are still needed.
        let ordinal = |path: &PathBuf| {
            std::fs::read(path).map(|bytes| number_at(&bytes, 16)).unwrap_or_default()
        };
        let newest = files.iter().max_by_key(|path| ordinal(path)).expect("not empty").clone();
        let path = if in_log { newest } else { self.rng.pick(&files).clone() };
        let failed = |error: std::io::Error| Error::caused(path.display(), error);
        let mut bytes = std::fs::read(&path).map_err(failed)?;
        let among = if in_log { known_to_be_on_disk(&bytes) } else { bytes.len() };
        let (at, bit) = (self.rng.below(among as u64) as usize, self.rng.below(8));
        bytes[at] ^= 1 << bit;
        std::fs::write(&path, &bytes).map_err(failed)?;
        Ok(format!("flipped bit {bit} of byte {at} of {} in {}", bytes.len(), path.display()))
    }
}

/// The length of the part of a journal segment in which a killed node must notice damage.
///
/// This part excludes the last record, because the node may not have told any other process of it.
fn known_to_be_on_disk(bytes: &[u8]) -> usize {
    let (mut at, mut last) = (64, 64);
    let mut number = number_at(bytes, 24);
    while number_at(bytes, at + 8) == number && number > 0 {
        let body_bytes = number_at(bytes, at) as u32 as usize;
        (last, at, number) = (at, at + 16 + body_bytes, number + 1);
    }
    last
}

fn number_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")))
}

/// Writes until the disk is full. The node may free room meanwhile, and this room is filled too.
fn fill(file: &mut std::fs::File) {
    for piece_bytes in [1 << 20, 4 << 10, 1] {
        while file.write_all(&vec![0; piece_bytes]).is_ok() {}
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
