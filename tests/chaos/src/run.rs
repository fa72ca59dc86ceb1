//! The conductor: round after round of load, fault, healing, recovery, quiet and verdict.

use crate::clients::{CLIENTS, Clients, VICTIM};
use crate::clock::now_us;
use crate::cluster::Cluster;
use crate::error::{Because, Error};
use crate::faults::{Stage, Wound};
use crate::judge::{Evidence, judge};
use crate::kinds::{COMBINATIONS, Kind};
use crate::names;
use crate::network::Network;
use crate::plan::{Plan, Round};
use crate::probe::{Prober, all_back, all_level, samples};
use crate::report::Report;
use local_cluster::{Leader, Member};
use palisade_sim::checker::{Outcome, Reached, Sample, check_convergence};
use palisade_sim::rng::Rng;
use palisade_tests::palisade_binary;
use routing::Settings;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// The load before the fault. The order of queues is judged in it.
const CALM: Duration = Duration::from_secs(4);
/// The load after recovery.
const AFTERMATH: Duration = Duration::from_millis(1_500);
/// The longest times for serving and recovery. Beyond these the cluster is stuck.
const SERVES_DURING_WITHIN: Duration = Duration::from_secs(10);
const RECOVERS_WITHIN: Duration = Duration::from_secs(45);
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const STOPS_ITSELF_WITHIN: Duration = Duration::from_secs(15);

struct Conductor {
    plan: Plan,
    cluster: Cluster,
    clients: Clients,
    prober: Prober,
    rng: Rng,
    samples: Vec<Sample>,
}

/// Runs the plan. `told` hears of each round when it has been judged. The run stops early when
/// `stop` resolves.
///
/// # Errors
/// The reason why it could not go on, for people.
pub async fn run(
    plan: Plan,
    mut told: impl FnMut(&Round),
    stop: impl Future<Output = ()>,
) -> Result<Report, Error> {
    let mut network = Network::new(&Cluster::hosts(), plan.tools.namespaces)?;
    let mut rng = Rng::new(plan.seed);
    // Logs are small, so that a node that was away for a round needs a snapshot now and then.
    let settings =
        Settings { checkpoint_log_bytes: 1 << 20, log_keep_bytes: 64 << 10, ..Settings::default() };
    let mut report = Report::new(&plan);
    let mut stop = std::pin::pin!(stop);
    for part in parts(&plan) {
        let dir = &part.dir;
        std::fs::create_dir_all(dir).because(dir.display())?;
        let cluster = Cluster::start(dir, network, settings.clone())?;
        let clients = Clients::start(&cluster, dir, rng.next_u64())?;
        let (prober, samples) = (Prober::new(&cluster), Vec::new());
        let rng = Rng::new(rng.next_u64());
        let mut conductor = Conductor { plan: part, cluster, clients, prober, rng, samples };
        if !all_back(&conductor.cluster, STARTS_WITHIN).await {
            let logs = conductor.last_words();
            return Err(Error::Reason(format!(
                "the cluster did not start within {STARTS_WITHIN:?}\n{logs}"
            )));
        }
        finalize(&conductor.cluster).await?;
        report.interrupted = tokio::select! {
            () = &mut stop => true,
            ran = conductor.rounds(&mut report, &mut told) => { ran?; false },
        };
        let diverged = check_convergence(&conductor.samples);
        report.convergence.extend(diverged.iter().map(ToString::to_string));
        report.panics.extend(conductor.panics());
        if report.interrupted {
            break;
        }
        network = conductor.cluster.into_network();
    }
    Ok(report)
}

/// Activates the last level, so that faults also meet what it brings. A new cluster is at the first.
async fn finalize(cluster: &Cluster) -> Result<(), Error> {
    let mut command = Command::new(palisade_binary());
    command.args(["cluster", "upgrade", "finalize", "--within", "5s"]).kill_on_drop(true);
    command.env("PALISADE_ENDPOINT", cluster.processes.endpoints().join(","));
    let asked = Instant::now();
    loop {
        // Nodes may not have told yet which levels they know.
        let output = command.output().await.because("palisade cluster upgrade")?;
        if output.status.success() {
            return Ok(());
        }
        if asked.elapsed() > STARTS_WITHIN {
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            return Err(Error::Reason(format!("the last level was not activated: {said}")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The plan in parts, each for a cluster of its own: the kinds that count on the first nodes of a
/// cluster, and those that change its nodes and members.
fn parts(plan: &Plan) -> Vec<Plan> {
    let is_wanted = |kind: &Kind| plan.kinds.is_empty() || plan.kinds.contains(kind);
    let is_possible = |kind: &Kind| plan.tools.missing(*kind).is_none();
    let kinds = |of_topology: bool| -> Vec<Kind> {
        let kinds = Kind::all().filter(is_wanted).filter(is_possible);
        kinds.filter(|kind| kind.is_of_topology() == of_topology).collect()
    };
    let of = |of_topology: bool, name: &str| {
        let kinds = kinds(of_topology);
        let has_pairs = plan.has_pairs && !of_topology;
        Plan { kinds, has_pairs, dir: plan.dir.join(name), ..plan.clone() }
    };
    let mut parts = vec![of(false, "faults"), of(true, "topology")];
    parts.retain(|part| !part.kinds.is_empty());
    let count = parts.len() as u64;
    parts.iter_mut().for_each(|part| part.minutes = plan.minutes / count);
    parts
}

impl Conductor {
    async fn rounds(
        &mut self,
        report: &mut Report,
        told: &mut impl FnMut(&Round),
    ) -> Result<(), Error> {
        let started = Instant::now();
        let budget = Duration::from_secs(60 * self.plan.minutes);
        let mut judged: Option<tokio::task::JoinHandle<Round>> = None;
        let (mut number, mut cycles) = (report.rounds(), 0);
        loop {
            for kinds in self.cycle() {
                if started.elapsed() > budget && cycles > 0 {
                    break;
                }
                number += 1;
                let (round, evidence) = self.round(number, &kinds).await?;
                // The verdict is computed while the next round runs.
                if let Some(before) = judged.take() {
                    let before = before.await.because("the judge")?;
                    told(&before);
                    report.add(before);
                }
                let dir = self.plan.dir.clone();
                judged = Some(tokio::task::spawn_blocking(move || verdict(round, &evidence, &dir)));
            }
            cycles += 1;
            if started.elapsed() > budget {
                break;
            }
        }
        if let Some(last) = judged.take() {
            let last = last.await.because("the judge")?;
            told(&last);
            report.add(last);
        }
        report.cycles += cycles;
        report.seconds += started.elapsed().as_secs();
        Ok(())
    }

    /// Every kind once, in random order, and a few combinations.
    fn cycle(&mut self) -> Vec<Vec<Kind>> {
        let possible = |kind: &Kind| self.plan.tools.missing(*kind).is_none();
        let single = self.plan.kinds.iter().map(|kind| vec![*kind]);
        let pairs = COMBINATIONS.iter();
        let pairs = pairs.filter(|pair| self.plan.has_pairs && pair.iter().all(possible));
        let mut left: Vec<Vec<Kind>> = single.chain(pairs.map(|pair| pair.to_vec())).collect();
        let mut cycle = Vec::new();
        while !left.is_empty() {
            cycle.push(left.swap_remove(self.rng.below(left.len() as u64) as usize));
        }
        cycle
    }

    async fn round(&mut self, number: u32, kinds: &[Kind]) -> Result<(Round, Evidence), Error> {
        let mut round = Round { number, kinds: kinds.to_vec(), ..Round::default() };
        self.prober.recorder.begin(number);
        self.clients.begin(number).await?;
        let mut quiet = Quiet::begin(&self.cluster).await;
        tokio::time::sleep(CALM).await;
        if kinds != [Kind::Nothing] {
            quiet.end(&self.cluster).await;
        }
        let hurt_at = Instant::now();
        let wound = self.inflict(kinds).await?;
        round.failures.extend(wound.failures.iter().cloned());
        round.notes.extend(wound.notes.iter().cloned());
        if wound.serves {
            round.interruption = self.prober.all_serve(number, SERVES_DURING_WITHIN).await;
            if round.interruption.is_none() {
                round.failures.push(format!(
                    "not every shard served within {SERVES_DURING_WITHIN:?} of the fault"
                ));
            }
        }
        tokio::time::sleep(wound.lasting.saturating_sub(hurt_at.elapsed())).await;
        self.await_ends(&wound, &mut round).await;
        if kinds == [Kind::Nothing] {
            quiet.end(&self.cluster).await;
        }
        let resumed_us = now_us();
        self.clients.resume();
        self.cluster.heal().await?;
        round.recovery = self.prober.all_serve(number, RECOVERS_WITHIN).await;
        if round.recovery.is_none() {
            round
                .failures
                .push(format!("not every shard served within {RECOVERS_WITHIN:?} of the healing"));
        }
        if !all_back(&self.cluster, RECOVERS_WITHIN).await {
            let logs = self.last_words();
            round.failures.push(format!(
                "not every node was back within {RECOVERS_WITHIN:?} of the healing\n{logs}"
            ));
        }
        tokio::time::sleep(AFTERMATH).await;
        let mut records = self.clients.end(number).await?;
        if kinds.contains(&Kind::PauseClient) {
            let late = records[VICTIM]
                .operations
                .iter()
                .filter(|operation| operation.invoke_us >= resumed_us);
            let refused = late.filter(|operation| operation.result == Outcome::Fenced).count();
            round.refused_after_pause = Some(refused);
        }
        // Each watch must come past the entries that are the last ones now.
        let mut reached = Reached { at_us: now_us(), ..Reached::default() };
        match all_level(&self.cluster, RECOVERS_WITHIN).await {
            Some(shards) => {
                self.samples.extend(samples(&shards));
                reached
                    .entries
                    .extend(shards.iter().map(|status| (status.shard, status.applied_index)));
            }
            None => round
                .failures
                .push(format!("replicas did not level within {RECOVERS_WITHIN:?} of quiet")),
        }
        let names: Vec<String> =
            (1..=CLIENTS).map(|process| names::watched(number, process)).collect();
        if !self.prober.mark(number, &names, RECOVERS_WITHIN).await {
            round.failures.push("the watched names could not be taken in quiet".to_owned());
            reached.entries.clear();
        }
        let watches = self.clients.end_watches(number, &reached.entries).await?;
        records.push(self.prober.recorder.take());
        self.await_ends(&Wound::default(), &mut round).await;
        let names: BTreeSet<&str> = records
            .iter()
            .flat_map(|record| &record.operations)
            .map(|operation| operation.name.as_str())
            .collect();
        let names = names.into_iter().filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let tenures = match self.prober.tenures(names).await {
            Ok(tenures) => tenures,
            Err(why) => {
                round.failures.push(why.to_string());
                Vec::new()
            }
        };
        let evidence = Evidence {
            records,
            watches,
            reached,
            tenures,
            quiet: quiet.stretches,
            drifted: wound.drifted,
        };
        Ok((round, evidence))
    }

    async fn inflict(&mut self, kinds: &[Kind]) -> Result<Wound, Error> {
        let mut all = Wound { serves: true, ..Wound::default() };
        let leaders = self.leaders().await?;
        let (cluster, clients, rng) = (&mut self.cluster, &mut self.clients, &mut self.rng);
        let mut stage = Stage {
            cluster,
            clients,
            rng,
            tools: &self.plan.tools,
            leaders,
            hurt: BTreeSet::new(),
        };
        for kind in kinds {
            let wound = stage.inflict(*kind).await?;
            all.lasting = all.lasting.max(wound.lasting);
            // Two faults at once may be more than a majority can bear.
            all.serves &= wound.serves && kinds.len() == 1;
            all.drifted |= wound.drifted;
            all.must_end.extend(wound.must_end);
            all.may_end.extend(wound.may_end);
            all.failures.extend(wound.failures);
            all.notes.extend(wound.notes);
        }
        Ok(all)
    }

    /// The leader of each shard.
    async fn leaders(&self) -> Result<BTreeMap<u32, u64>, Error> {
        for _ in 0..20 {
            if let Some(leaders) = self.cluster.leaders().await {
                return Ok(leaders
                    .into_iter()
                    .map(|(shard, leader)| (shard, leader.node))
                    .collect());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err("no status that names a leader for every shard, before a fault".into())
    }

    /// Reaps processes that ended by themselves, and waits for those that must end. Notes each
    /// unexpected end and each missing one.
    async fn await_ends(&mut self, wound: &Wound, round: &mut Round) {
        let asked = Instant::now();
        let mut missing = wound.must_end.clone();
        loop {
            for ended in self.cluster.ended() {
                let expected = match ended.member {
                    Member::Node(id) => missing.remove(&id) || wound.may_end.contains(&id),
                    Member::Gateway(_) => false,
                };
                let last_words = self.cluster.processes.log_end(ended.member, 1);
                let what =
                    format!("{} ended by itself: {}: {last_words}", ended.member, ended.status);
                // The process must end with an exit code, because a signal would be a crash.
                let as_expected = expected && ended.status.code().is_some_and(|code| code != 0);
                let list = if as_expected { &mut round.notes } else { &mut round.failures };
                list.push(what);
            }
            if missing.is_empty() || asked.elapsed() > STOPS_ITSELF_WITHIN {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for id in missing {
            round.failures.push(format!("node {id} should have stopped by itself, and runs on"));
        }
    }

    fn last_words(&self) -> String {
        let words = self.cluster.members().into_iter().map(|host| {
            let lines = self.cluster.processes.log_end(host, 4);
            format!("---- {host}\n{lines}")
        });
        words.collect::<Vec<_>>().join("\n")
    }

    /// The panic lines in all logs.
    fn panics(&self) -> Vec<String> {
        let clients =
            (1..=CLIENTS).map(|number| self.plan.dir.join(format!("client-{number}.log")));
        let logs = self.cluster.all_members().into_iter();
        let logs = logs.map(|host| self.cluster.processes.log(host)).chain(clients);
        logs.flat_map(|log| {
            let text = std::fs::read(&log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            let of = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let panics = text
                .lines()
                .filter(|line| line.contains("panicked at"))
                .map(|line| format!("{of}: {line}"));
            panics.collect::<Vec<_>>()
        })
        .collect()
    }
}

/// Stretches without a fault and without a change of a shard's leader.
#[derive(Default)]
struct Quiet {
    from_us: u64,
    leaders: Option<BTreeMap<u32, Leader>>,
    stretches: Vec<(u64, u64)>,
}

impl Quiet {
    async fn begin(cluster: &Cluster) -> Quiet {
        let leaders = cluster.leaders().await;
        Quiet { from_us: now_us(), leaders, stretches: Vec::new() }
    }

    async fn end(&mut self, cluster: &Cluster) {
        let to_us = now_us();
        let leaders = cluster.leaders().await;
        if leaders.is_some() && leaders == self.leaders {
            self.stretches.push((self.from_us, to_us));
        }
    }
}

fn verdict(mut round: Round, evidence: &Evidence, dir: &Path) -> Round {
    round.verdict = judge(evidence);
    if round.verdict.violations > 0 {
        let path = dir.join(format!("round-{}.evidence.json", round.number));
        let saved = serde_json::to_vec(evidence)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&path, text));
        round.kept = Some(
            saved
                .map_or_else(|error| format!("not kept: {error}"), |()| path.display().to_string()),
        );
    }
    round
}
