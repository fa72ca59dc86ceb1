//! Faults of disks: disks that hang, and directories that are older than their node's answers.

use super::{Stage, Wound};
use crate::error::{Because, Error};
use crate::probe::all_back;
use local_cluster::Member;
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

/// The longest time until a restarted node takes part again. A longer time is a failure.
const BACK_WITHIN: Duration = Duration::from_secs(30);

impl Stage<'_> {
    /// The disk of a leader hangs, for one of its threads or for all of them. The leaderships must
    /// move to other nodes. Otherwise each operation waits until a timeout, because the leader
    /// cannot write its own entry.
    pub(super) async fn hang_disk(&mut self, thread: Option<&str>) -> Result<Wound, Error> {
        let library = self.tools.hang.clone().ok_or("the library for hanging disks is missing")?;
        let hang = self.cluster.hang();
        let mut env = vec![
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("PALISADE_HANG_WHILE".to_owned(), hang.display().to_string()),
        ];
        env.extend(thread.map(|thread| ("PALISADE_HANG_THREAD".to_owned(), thread.to_owned())));
        let mut wound = Wound::lasting_s(self.rng, 5, 8);
        let (id, shard) = self.leader_with(env, &mut wound).await?;
        let led = self.leads(id, shard).await;
        wound.notes.push(format!(
            "node {id}'s disk hangs; it {} shard {shard}",
            if led { "led" } else { "did not lead" }
        ));
        std::fs::write(&hang, "").because(hang.display())?;
        Ok(wound.serves())
    }

    /// A leader is killed, and comes back with a copy of its directory from some seconds before. It
    /// has forgotten the entries that it acknowledged since, so its peers must refuse it. Then it
    /// is re-seeded.
    pub(super) async fn put_back_a_copy(&mut self) -> Result<Wound, Error> {
        let mut wound = Wound::lasting_s(self.rng, 3, 5);
        let id = self.some_leader();
        let (data, copy) =
            (self.cluster.processes.data(id), self.cluster.processes.disk(id).join("copy"));
        self.cluster.kill(Member::Node(id));
        copy_dir(&data, &copy)?;
        self.cluster.start_one(Member::Node(id));
        if !all_back(self.cluster, BACK_WITHIN).await {
            wound.failures.push(format!(
                "node {id} was killed and started, and was not back within {BACK_WITHIN:?}"
            ));
        }
        // Under load, the leader acknowledges entries that the copy does not have.
        sleep(Duration::from_millis(self.rng.range(1_000, 4_000))).await;
        self.cluster.kill(Member::Node(id));
        self.cluster.mark_damaged(id);
        std::fs::remove_dir_all(&data).because(data.display())?;
        std::fs::rename(&copy, &data).because(copy.display())?;
        self.cluster.start_one(Member::Node(id));
        wound.must_end = [id].into();
        Ok(wound.serves())
    }
}

fn copy_dir(from: &Path, to: &Path) -> Result<(), Error> {
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(to).map_err(|error| failed(to, error))?;
    for entry in std::fs::read_dir(from).map_err(|error| failed(from, error))? {
        let path = entry.map_err(|error| failed(from, error))?.path();
        let target = to.join(path.file_name().expect("an entry has a name"));
        if path.is_dir() {
            copy_dir(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).map_err(|error| failed(&path, error))?;
        }
    }
    Ok(())
}
