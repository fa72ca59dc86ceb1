//! Judges whether a data directory is as far as it was. The rule is pure, and serves for peers and
//! for the guard file.
//!
//! A replica that forgot its votes and acknowledgements must not take part. A directory forgets
//! when it is lost, and when an older copy of it is put back. A new directory in place of a lost
//! one has another random name. An older copy has the right name, so two numbers tell it apart: the
//! number of the directory's starts (its boot), and the number of records in its journal.
//!
//! Without the second number, it goes wrong as follows: A and S have entry 7, and it is
//! acknowledged. S stops, and a copy of its directory without entry 7 is put back. S and B are a
//! majority that elects B, which never had entry 7.
//!
//! The module knows nothing of disks, sockets and clocks.

use routing::{AddressVersion, NodeId};

/// The number of latest runs that a directory remembers and sends to peers.
pub(crate) const RUNS_MAX: usize = 32;

/// Names one data directory of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreId {
    /// 0 at the cluster's start, higher after each re-seed.
    pub(crate) incarnation: u32,
    /// Random name of the directory.
    pub(crate) store: u64,
}

impl StoreId {
    /// The name of the directory in the topology: `incarnation u64 LE | store u64 LE`.
    pub(crate) fn in_topology(self) -> topology::StoreId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&u64::from(self.incarnation).to_le_bytes());
        bytes[8..].copy_from_slice(&self.store.to_le_bytes());
        topology::StoreId(bytes)
    }
}

/// One process that had a data directory open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Counts the directory's starts, from 1.
    pub(crate) boot: u64,
    /// Random, so that two processes with one boot number are known to have run on two copies.
    pub(crate) life: u64,
    /// The last record of the journal at the time when the process opened it.
    pub(crate) opened: u64,
}

/// The claim that a node makes about its directory.
///
/// * `runs` is not empty, has at most [`RUNS_MAX`] runs, and their boots rise. The last run is the
///   one that makes the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: StoreId,
    pub(crate) runs: Vec<Run>,
    /// The journal's last record that is on disk now.
    pub(crate) record: u64,
}

/// The known progress of a directory: its latest run, and a record of its journal that was on disk
/// in that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) id: StoreId,
    /// 0 means unknown: an earlier version remembered the peer, or its directory was put back.
    pub(crate) boot: u64,
    pub(crate) life: u64,
    pub(crate) record: u64,
}

/// The reason why a directory must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// The node has been re-seeded since.
    Replaced,
    /// The directory is another one, and no re-seed.
    Other,
    /// The directory is an older copy: it has forgotten a run, or records.
    Older,
    /// Another process has run on a copy of the directory.
    Twin,
}

impl Claim {
    /// The run that makes the claim.
    ///
    /// # Panics
    /// If there are no runs: call [`Claim::is_sound`] first.
    pub(crate) fn run(&self) -> Run {
        *self.runs.last().expect("a claim has runs")
    }

    /// The version of the address at which the run that makes the claim listens.
    ///
    /// # Panics
    /// If there are no runs.
    pub(crate) fn address_version(&self) -> AddressVersion {
        AddressVersion { incarnation: self.id.incarnation.into(), starts: self.run().boot }
    }

    /// Whether bytes from outside make a valid claim.
    pub(crate) fn is_sound(&self) -> bool {
        let rises = self.runs.is_sorted_by(|a, b| a.boot < b.boot);
        rises && (1..=RUNS_MAX).contains(&self.runs.len()) && self.runs[0].boot > 0
    }

    /// The knowledge to remember from this claim.
    pub(crate) fn known(&self) -> Known {
        let run = self.run();
        Known { id: self.id, boot: run.boot, life: run.life, record: self.record.max(run.opened) }
    }
}

impl Known {
    /// Whether both describe one run.
    pub(crate) fn is_same_run(&self, other: &Known) -> bool {
        (self.id, self.boot, self.life) == (other.id, other.boot, other.life)
    }
}

/// Judges whether a directory with this claim has everything that it is known to have had.
///
/// Each run opens with all the records that earlier runs had on disk. So the first run after the
/// known one decides: it must have opened with the known record, or a later one. The records that
/// the directory wrote since do not count.
pub(crate) fn judge(known: &Known, claim: &Claim) -> Result<(), Unfit> {
    if claim.id.incarnation != known.id.incarnation {
        return if claim.id.incarnation < known.id.incarnation {
            Err(Unfit::Replaced)
        } else {
            Ok(())
        };
    }
    if claim.id.store != known.id.store {
        return Err(Unfit::Other);
    }
    if known.boot == 0 {
        return Ok(());
    }
    if claim.run().boot < known.boot {
        return Err(Unfit::Older);
    }
    let began_before = claim.runs[0].boot <= known.boot;
    match claim.runs.iter().find(|run| run.boot == known.boot) {
        Some(run) if run.life != known.life => return Err(Unfit::Twin),
        // The directory remembers earlier runs, but not the known one.
        None if began_before => return Err(Unfit::Older),
        _ => {}
    }
    match claim.runs.iter().find(|run| run.boot > known.boot) {
        Some(next) if next.opened < known.record => Err(Unfit::Older),
        _ => Ok(()),
    }
}

/// A node's directory that must not be used. The message for people names the step to take instead.
#[derive(Debug, thiserror::Error)]
#[error("{}", explain(*node, knower, known, claim, *unfit))]
pub(crate) struct UnfitDirectory {
    node: NodeId,
    /// The source that knows better: "this cluster", or a file.
    knower: String,
    known: Known,
    claim: Box<Claim>,
    unfit: Unfit,
}

impl UnfitDirectory {
    pub(crate) fn new(
        node: NodeId,
        knower: &str,
        known: &Known,
        claim: &Claim,
        unfit: Unfit,
    ) -> UnfitDirectory {
        let (knower, known, claim) = (knower.to_owned(), *known, Box::new(claim.clone()));
        UnfitDirectory { node, knower, known, claim, unfit }
    }
}

fn explain(node: NodeId, knower: &str, known: &Known, claim: &Claim, unfit: Unfit) -> String {
    let run = claim.run();
    let re_seed = "move this directory away and start node with --reseed once, on an empty one";
    match unfit {
        Unfit::Replaced => format!(
            "node {node} comes with another data directory than {knower} knows (incarnation {}, where {} is known): it has been \
             replaced by a re-seed since, and must not be used any more. See `palisade node --help`",
            claim.id.incarnation, known.id.incarnation
        ),
        Unfit::Other => format!(
            "node {node} comes with another data directory than {knower} knows: if it was started with the wrong --data-dir, \
             start it with the right one; if the node's data was lost or damaged, move this directory away and start it with \
             --reseed once. See `palisade node --help`"
        ),
        Unfit::Older => format!(
            "node {node} comes with an older copy of its data directory: {knower} knows its start number {} with record {}, and \
             this copy was started {} times and began with record {}. It has forgotten votes and acknowledgements. Bring the \
             newest directory back, or {re_seed}. See `palisade node --help`",
            known.boot,
            known.record,
            run.boot,
            first_after(known, claim).opened
        ),
        Unfit::Twin => format!(
            "node {node} comes with a copy of its data directory, and another process has run on the original or on another \
             copy since: {knower} knows a different start number {}. Stop this process and use the other directory, or {re_seed}. \
             See `palisade node --help`",
            known.boot
        ),
    }
}

/// The run that tells how much of the known run is left.
fn first_after(known: &Known, claim: &Claim) -> Run {
    claim.runs.iter().copied().find(|run| run.boot > known.boot).unwrap_or_else(|| claim.run())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(incarnation: u32, store: u64) -> StoreId {
        StoreId { incarnation, store }
    }

    fn run(boot: u64, life: u64, opened: u64) -> Run {
        Run { boot, life, opened }
    }

    fn claim(runs: &[Run], record: u64) -> Claim {
        Claim { id: id(0, 11), runs: runs.to_vec(), record }
    }

    const KNOWN: Known =
        Known { id: StoreId { incarnation: 0, store: 11 }, boot: 5, life: 50, record: 1_000 };

    #[test]
    fn a_restart_opens_with_all_that_the_run_before_had() {
        let (first, known_run) = (run(4, 40, 100), run(5, 50, 500));
        for runs in [
            &[first, known_run][..], // the same run greets again
            &[first, known_run, run(6, 60, 1_000)],
            &[first, known_run, run(6, 60, 1_700)],
            // The runs between greeted no node.
            &[first, known_run, run(6, 60, 1_000), run(9, 90, 1_000)],
            // The known run is too long ago.
            &[run(7, 70, 1_000)],
        ] {
            assert_eq!(judge(&KNOWN, &claim(runs, 2_000)), Ok(()), "{runs:?}");
        }
    }

    #[test]
    fn an_older_copy_is_told_by_the_record_that_it_was_opened_with() {
        let (first, known_run) = (run(4, 40, 100), run(5, 50, 500));
        for runs in [
            &[first, known_run, run(6, 60, 999)][..],
            &[run(6, 60, 999)],
            // The copy ran on with peers that did not know better, and has written more than it
            // forgot.
            &[first, known_run, run(6, 60, 999), run(7, 70, 1_900)],
            // A copy from before the known run.
            &[first],
            &[run(3, 30, 1), run(4, 40, 100)],
            // The copy's runs skip the known one.
            &[first, run(6, 60, 1_500)],
        ] {
            assert_eq!(judge(&KNOWN, &claim(runs, 2_000)), Err(Unfit::Older), "{runs:?}");
        }
    }

    #[test]
    fn two_processes_with_one_boot_number_ran_on_two_copies() {
        let (first, other) = (run(4, 40, 100), run(5, 51, 2_000));
        assert_eq!(judge(&KNOWN, &claim(&[first, other], 2_000)), Err(Unfit::Twin));
        assert_eq!(
            judge(&KNOWN, &claim(&[first, other, run(6, 60, 3_000)], 3_000)),
            Err(Unfit::Twin)
        );
    }

    #[test]
    fn the_record_of_the_speaking_run_is_not_compared_with_itself() {
        // Greetings and frames of one run may overtake each other.
        assert_eq!(judge(&KNOWN, &claim(&[run(5, 50, 500)], 900)), Ok(()));
    }

    #[test]
    fn names_and_incarnations_come_first() {
        let with = |id: StoreId| Claim { id, ..claim(&[run(1, 1, 0)], 0) };
        let known = Known { id: id(3, 11), ..KNOWN };
        assert_eq!(judge(&known, &with(id(3, 12))), Err(Unfit::Other));
        assert_eq!(judge(&known, &with(id(2, 11))), Err(Unfit::Replaced));
        assert_eq!(judge(&known, &with(id(4, 12))), Ok(()));
        assert_eq!(
            judge(&Known { boot: 0, ..known }, &with(id(3, 11))),
            Ok(()),
            "of an earlier version"
        );
    }

    #[test]
    fn what_is_no_claim_is_told() {
        assert!(claim(&[run(1, 1, 0), run(2, 1, 0)], 0).is_sound());
        for runs in
            [&[][..], &[run(0, 1, 0)], &[run(2, 1, 0), run(2, 2, 0)], &[run(2, 1, 0), run(1, 2, 0)]]
        {
            assert!(!claim(runs, 0).is_sound(), "{runs:?}");
        }
        let many: Vec<Run> = (1..=RUNS_MAX as u64 + 1).map(|boot| run(boot, boot, 0)).collect();
        assert!(!claim(&many, 0).is_sound() && claim(&many[1..], 0).is_sound());
    }

    /// Random lives of a directory and of its copies. A peer that heard all of the original refuses
    /// a copy exactly if the copy lacks something. It never refuses the original.
    #[test]
    fn a_peer_that_heard_everything_is_never_wrong() {
        #[derive(Clone)]
        struct Directory {
            runs: Vec<Run>,
            record: u64,
        }
        impl Directory {
            fn start(&mut self, life: u64) {
                let boot = self.runs.last().map_or(0, |run| run.boot) + 1;
                self.runs.push(run(boot, life, self.record));
                self.runs.drain(..self.runs.len().saturating_sub(RUNS_MAX));
            }
        }
        let mut refused = 0;
        for seed in 1..3_000u64 {
            let mut random = seed;
            let mut below = |n: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % n
            };
            let mut original = Directory { runs: Vec::new(), record: 0 };
            let (mut copy, mut life) = (None, 0);
            let mut known: Option<Known> = None;
            for _ in 0..12 {
                life += 1;
                original.start(life);
                for _ in 0..below(4) {
                    original.record += below(3);
                    let claim = claim(&original.runs, original.record);
                    known
                        .iter()
                        .for_each(|known| assert_eq!(judge(known, &claim), Ok(()), "seed {seed}"));
                    known = Some(claim.known());
                    if below(6) == 0 {
                        copy = Some(original.clone());
                    }
                }
            }
            let (Some(mut copy), Some(known)) = (copy, known) else { continue };
            // The copy is put back. It may run for a while with peers that know nothing.
            let put_back = copy.record;
            for _ in 0..=below(2) {
                life += 1;
                copy.start(life);
                copy.record += below(40);
            }
            let judged = judge(&known, &claim(&copy.runs, copy.record));
            if put_back < known.record {
                assert!(judged.is_err(), "seed {seed}: {known:?} {:?}", copy.runs);
                refused += 1;
            }
        }
        assert!(refused > 500, "{refused} older copies were tried");
    }
}
