//! The result of a run: a table by kind of fault, for people, programs and `docs/chaos.md`.

use crate::error::Error;
use crate::kinds::Kind;
use crate::plan::{Plan, Round};
use palisade_sim::checker::WatchCounts;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// All rounds of one kind, or one combination.
#[derive(Clone, Debug, Default)]
struct Row {
    times: usize,
    operations: usize,
    fenced: usize,
    violations: usize,
    failures: usize,
    interruptions: Vec<Duration>,
    recoveries: Vec<Duration>,
}

/// The sums over all rounds of a run.
#[derive(Clone, Debug, Default)]
pub struct Report {
    rows: BTreeMap<Vec<Kind>, Row>,
    /// The kinds that this machine cannot inflict, and the reasons.
    skipped: Vec<(Kind, &'static str)>,
    /// The kinds that the plan asks for.
    wanted: Vec<Kind>,
    /// The replicas with equal applied index and different state.
    pub convergence: Vec<String>,
    /// The log lines of panics.
    pub panics: Vec<String>,
    /// The number of complete cycles through all kinds.
    pub cycles: u32,
    /// The duration of the whole run.
    pub seconds: u64,
    /// Whether the run was ended early.
    pub interrupted: bool,
    seed: u64,
    operations: usize,
    grants: usize,
    checks: usize,
    undecided: usize,
    watches: WatchCounts,
    refused_after_pause: Option<usize>,
}

impl Report {
    /// Creates an empty report.
    pub fn new(plan: &Plan) -> Report {
        let asked = |kind: &Kind| plan.kinds.is_empty() || plan.kinds.contains(kind);
        let skipped = |kind: Kind| plan.tools.missing(kind).map(|why| (kind, why));
        let wanted = Kind::all().filter(asked).filter(|kind| skipped(*kind).is_none()).collect();
        let skipped = Kind::all().filter(asked).filter_map(skipped).collect();
        Report { wanted, skipped, seed: plan.seed, ..Report::default() }
    }

    /// Adds one more round.
    pub fn add(&mut self, round: Round) {
        let row = self.rows.entry(round.kinds).or_default();
        row.times += 1;
        row.operations += round.verdict.operations;
        row.fenced += round.verdict.fenced;
        row.violations += round.verdict.violations;
        row.failures += round.failures.len();
        row.interruptions.extend(round.interruption);
        row.recoveries.extend(round.recovery);
        self.operations += round.verdict.operations;
        self.grants += round.verdict.grants;
        self.checks += round.verdict.checks;
        self.undecided += round.verdict.undecided;
        self.watches += round.verdict.watches;
        if let Some(refused) = round.refused_after_pause {
            *self.refused_after_pause.get_or_insert_default() += refused;
        }
    }

    /// The number of rounds so far.
    pub fn rounds(&self) -> u32 {
        self.rows.values().map(|row| row.times as u32).sum()
    }

    /// Whether every invariant held and every kind was inflicted.
    pub fn is_fine(&self) -> bool {
        self.rows.values().all(|row| row.violations == 0 && row.failures == 0)
            && self.convergence.is_empty()
            && self.panics.is_empty()
            && self.missing().is_empty()
            && self.refused_after_pause != Some(0)
            && self.unwatched().is_none()
            && !self.interrupted
    }

    /// What no watch of the run has shown.
    fn unwatched(&self) -> Option<&'static str> {
        let WatchCounts { events, resumed, resynced } = self.watches;
        match (events, resumed, resynced) {
            (0, ..) => Some("No watch was told of a change"),
            (_, 0, _) => Some("No watch went on by its position"),
            (.., 0) => Some("No watch was told a new state because events were lost"),
            _ => None,
        }
    }

    /// The kinds that the plan asks for and that did not occur.
    fn missing(&self) -> Vec<Kind> {
        let came = |kind: &Kind| self.rows.keys().any(|kinds| kinds.contains(kind));
        self.wanted.iter().copied().filter(|kind| !came(kind)).collect()
    }

    /// Formats the table as Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| fault | rounds | operations | fenced | violations | served again during the fault, median / max | recovery, median / max |\n\
             |---|---|---|---|---|---|---|\n",
        );
        for (kinds, row) in &self.rows {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                title(kinds),
                row.times,
                row.operations,
                row.fenced,
                row.violations + row.failures,
                spread(&row.interruptions),
                spread(&row.recoveries)
            );
        }
        text
    }

    /// Formats the facts that the table leaves out.
    pub fn summary(&self) -> String {
        let violations: usize = self.rows.values().map(|row| row.violations + row.failures).sum();
        let rounds: usize = self.rows.values().map(|row| row.times).sum();
        let mut text = format!(
            "{rounds} rounds in {} s, seed {}: {} violations, {} names undecided.\n\
             {} operations checked, of these {} grants and {} linearizable checks.\n",
            self.seconds,
            self.seed,
            violations + self.convergence.len() + self.panics.len(),
            self.undecided,
            self.operations,
            self.grants,
            self.checks,
        );
        for what in self.convergence.iter().chain(&self.panics) {
            let _ = writeln!(text, "violation: {what}");
        }
        for (kind, why) in &self.skipped {
            let _ = writeln!(text, "skipped: {}: {why}", kind.title());
        }
        for kind in self.missing() {
            let _ =
                writeln!(text, "never came: {}, so this run shows nothing about it.", kind.title());
        }
        let WatchCounts { events, resumed, resynced } = self.watches;
        let _ = writeln!(
            text,
            "Watches were told {events} changes, went on by their position {resumed} times, and \
             were told {resynced} times that events were lost."
        );
        if let Some(what) = self.unwatched() {
            let _ = writeln!(text, "{what}, so this run shows nothing about that.");
        }
        match self.refused_after_pause {
            None => {}
            Some(0) => text
                .push_str("No client came back from a pause with a lost lock, so this run shows nothing about that.\n"),
            Some(refused) => {
                let _ = writeln!(
                    text,
                    "Clients came back from a pause with a lost lock, and were refused: {refused} \
                     times."
                );
            }
        }
        if self.interrupted {
            text.push_str("interrupted\n");
        }
        text
    }

    /// Formats the report for programs, as JSON.
    pub fn json(&self) -> String {
        let ms =
            |times: &[Duration], at: f64| quantile(times, at).map(|time| time.as_millis() as u64);
        let faults: Vec<serde_json::Value> = (self.rows.iter())
            .map(|(kinds, row)| {
                serde_json::json!({
                    "fault": title(kinds),
                    "times": row.times,
                    "operations": row.operations,
                    "fenced": row.fenced,
                    "violations": row.violations + row.failures,
                    "interruption_median_ms": ms(&row.interruptions, 0.5),
                    "interruption_max_ms": ms(&row.interruptions, 1.0),
                    "recovery_median_ms": ms(&row.recoveries, 0.5),
                    "recovery_max_ms": ms(&row.recoveries, 1.0),
                })
            })
            .collect();
        let titles = |kinds: &[Kind]| kinds.iter().map(|kind| kind.title()).collect::<Vec<_>>();
        serde_json::json!({
            "fine": self.is_fine(),
            "seed": self.seed,
            "seconds": self.seconds,
            "operations": self.operations,
            "grants": self.grants,
            "linearizable_checks": self.checks,
            "undecided_names": self.undecided,
            "watches": self.watches,
            "refused_after_pause": self.refused_after_pause,
            "convergence_violations": self.convergence,
            "panics": self.panics,
            "skipped": self.skipped.iter().map(|(kind, _)| kind.title()).collect::<Vec<_>>(),
            "never_came": titles(&self.missing()),
            "interrupted": self.interrupted,
            "faults": faults,
        })
        .to_string()
    }
}

/// Puts `text` into a page between the marks `<!-- MARK: begin -->` and `<!-- MARK: end -->`, each
/// on a line of its own.
///
/// # Errors
/// If the page cannot be read or written, or has no such place.
pub fn write_docs(page: &Path, mark: &str, text: &str) -> Result<(), Error> {
    let failed = |error: std::io::Error| Error::caused(page.display(), error);
    let old = std::fs::read_to_string(page).map_err(failed)?;
    let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
    let place = old
        .find(&begin)
        .map(|at| at + begin.len())
        .zip(old.find(&end))
        .filter(|(begin, end)| begin <= end);
    let (begin, end) = place
        .ok_or_else(|| Error::Reason(format!("{}: no place for the {mark}", page.display())))?;
    std::fs::write(page, format!("{}{}\n{}", &old[..begin], text.trim_end(), &old[end..]))
        .map_err(failed)
}

/// Formats a round for people, while a run goes on.
pub fn line(round: &Round) -> String {
    let ms = |time: Option<Duration>| {
        time.map_or("–".into(), |time| format!("{} ms", time.as_millis()))
    };
    let mut text = format!(
        "round {:>3}  {:<48} {:>6} operations, {:>6} changes told, served during it after {:>8}, recovered after {:>8}",
        round.number,
        title(&round.kinds),
        round.verdict.operations,
        round.verdict.watches.events,
        ms(round.interruption),
        ms(round.recovery),
    );
    for what in round.verdict.shown.iter().chain(&round.failures) {
        let _ = write!(text, "\n  VIOLATION {what}");
    }
    for note in &round.notes {
        let _ = write!(text, "\n  {note}");
    }
    if let Some(kept) = &round.kept {
        let _ = write!(text, "\n  evidence: {kept}");
    }
    text
}

fn title(kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| kind.title()).collect::<Vec<_>>().join(" + ")
}

fn spread(times: &[Duration]) -> String {
    match (quantile(times, 0.5), quantile(times, 1.0)) {
        (Some(median), Some(max)) => {
            format!("{:.2} / {:.2} s", median.as_secs_f64(), max.as_secs_f64())
        }
        _ => "–".into(),
    }
}

/// The smallest time that is not below this share of all times.
pub fn quantile(times: &[Duration], share: f64) -> Option<Duration> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let place = ((times.len() as f64 * share).ceil() as usize).saturating_sub(1);
    times.get(place).copied()
}
