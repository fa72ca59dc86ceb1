//! The rates of renewals, refusals and denials, which no watch tells: from the metrics of gateways.

use super::moment::Moment;
use std::collections::BTreeMap;
use std::ops::Add;
use wire::{OperationKind, Outcome};

/// Counters of a gateway since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counters {
    /// Renewals of single locks that were done.
    pub renewed: f64,
    /// Heartbeats of sessions that were answered.
    pub heartbeats: f64,
    /// Acquires that were refused because another holds the lock.
    pub held: f64,
    /// Operations that the identity of their client may not do.
    pub denied: f64,
    /// Operations that were not served: no leader, no room, outcome unknown, or a defect.
    pub failed: f64,
    /// Acquires that were granted, or refused because another holds the lock.
    pub acquires: f64,
    /// Of these, those that found another holder.
    pub contended: f64,
}

impl Counters {
    /// The counters on a page of `/metrics`. `None` if the page is not of a gateway.
    pub fn on(page: &str) -> Option<Counters> {
        let mut counters = Counters::default();
        let mut found = false;
        for line in page.lines() {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Some(series) = series.strip_prefix("palisade_gateway_") else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let (kind, outcome) = (label(labels, "kind"), label(labels, "outcome"));
            let is =
                |of: OperationKind, ends: Outcome| kind == of.as_str() && outcome == ends.as_str();
            let failures = Outcome::ALL.iter().filter(|outcome| outcome.is_failure());
            let is_failure = failures.map(|failure| failure.as_str()).any(|of| of == outcome);
            match name {
                "operations_total" if is(OperationKind::Renew, Outcome::Ok) => {
                    counters.renewed += value;
                }
                "operations_total" if is(OperationKind::Heartbeat, Outcome::Ok) => {
                    counters.heartbeats += value;
                }
                "operations_total" if is(OperationKind::Acquire, Outcome::Held) => {
                    counters.held += value;
                }
                "operations_total" if is_failure => counters.failed += value,
                "operations_denied_total" => counters.denied += value,
                "acquires_total" => {
                    counters.acquires += value;
                    found = true;
                }
                "acquires_contended_total" => counters.contended += value,
                _ => {}
            }
        }
        found.then_some(counters)
    }

    fn each(self) -> [f64; 7] {
        let Counters { renewed, heartbeats, held, denied, failed, acquires, contended } = self;
        [renewed, heartbeats, held, denied, failed, acquires, contended]
    }

    fn from_each(each: [f64; 7]) -> Counters {
        let [renewed, heartbeats, held, denied, failed, acquires, contended] = each;
        Counters { renewed, heartbeats, held, denied, failed, acquires, contended }
    }

    /// The increase per second since earlier counters. `None` if the gateway began anew between.
    fn per_second(self, then: Counters, seconds: f64) -> Option<Counters> {
        let (now, then) = (self.each(), then.each());
        let fell = now.iter().zip(then).any(|(now, then)| *now < then);
        let rate = |at: usize| (now[at] - then[at]) / seconds;
        (seconds > 0.0 && !fell).then(|| Counters::from_each(std::array::from_fn(rate)))
    }
}

impl Add for Counters {
    type Output = Counters;

    fn add(self, other: Counters) -> Counters {
        let (a, b) = (self.each(), other.each());
        Counters::from_each(std::array::from_fn(|at| a[at] + b[at]))
    }
}

/// The value of a label.
fn label<'a>(labels: &'a str, name: &str) -> &'a str {
    let mut parts = labels.trim_end_matches('}').split(',');
    let value = |part: &'a str| part.strip_prefix(name)?.strip_prefix('=');
    parts.find_map(value).unwrap_or_default().trim_matches('"')
}

/// The answer of one address: its counters, or the reason why there are none.
pub type Answer = Result<Counters, String>;

/// The gateways with metrics that are read.
#[derive(Clone, Debug, Default)]
pub struct Gateways {
    former: BTreeMap<String, (Moment, Counters)>,
    rates: Option<Counters>,
    failures: Vec<String>,
    /// Gateways with a rate.
    counted: usize,
}

impl Gateways {
    /// Takes the answers of all addresses at one moment.
    pub fn take(&mut self, answers: Vec<(String, Answer)>, at: Moment) {
        self.failures.clear();
        let mut rates = Vec::new();
        for (address, answer) in answers {
            match answer {
                Ok(now) => {
                    let former = self.former.insert(address, (at, now));
                    let seconds = |then| at.since(then) as f64 / 1_000.0;
                    rates.extend(
                        former.and_then(|(then, counters)| now.per_second(counters, seconds(then))),
                    );
                }
                Err(why) => self.failures.push(format!("{address}: {why}")),
            }
        }
        self.counted = rates.len();
        self.rates = rates.into_iter().reduce(Counters::add);
    }

    /// Rates per second, summed over the gateways that have one.
    pub fn rates(&self) -> Option<Counters> {
        self.rates
    }

    pub fn counted(&self) -> usize {
        self.counted
    }

    /// The addresses without an answer, each with the reason.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
HTTP/1.1 200 OK\r
# HELP palisade_gateway_acquires_total x
palisade_gateway_acquires_total 50
palisade_gateway_acquires_contended_total 5
palisade_gateway_operations_denied_total 3
palisade_gateway_operations_total{kind=\"acquire\",outcome=\"held\"} 4
palisade_gateway_operations_total{kind=\"acquire\",outcome=\"ok\"} 46
palisade_gateway_operations_total{kind=\"check\",outcome=\"not_served\"} 1
palisade_gateway_operations_total{kind=\"heartbeat\",outcome=\"ok\"} 2
palisade_gateway_operations_total{kind=\"renew\",outcome=\"busy\"} 1
palisade_gateway_operations_total{kind=\"renew\",outcome=\"ok\"} 20
";

    const fn at(ms: u64) -> Moment {
        Moment { unix_ms: ms, ms }
    }

    #[test]
    fn a_page_of_a_gateway_has_its_counters() {
        let counters = Counters {
            renewed: 20.0,
            heartbeats: 2.0,
            held: 4.0,
            denied: 3.0,
            failed: 2.0,
            acquires: 50.0,
            contended: 5.0,
        };
        assert_eq!(Counters::on(PAGE), Some(counters));
        assert_eq!(Counters::on("palisade_operations_total{kind=\"renew\"} 5\n"), None);
        assert_eq!(Counters::on("<html>"), None);
    }

    #[test]
    fn rates_are_summed_over_the_gateways_that_go_on() {
        let counters = |renewed| Counters { renewed, ..Counters::default() };
        let mut gateways = Gateways::default();
        let answers = |a: Answer, b: Answer| vec![("a".to_owned(), a), ("b".to_owned(), b)];
        gateways.take(answers(Ok(counters(10.0)), Ok(counters(100.0))), at(0));
        assert_eq!(gateways.rates(), None, "one page gives no rate");
        gateways.take(answers(Ok(counters(30.0)), Ok(counters(180.0))), at(2_000));
        assert_eq!(gateways.rates().map(|rates| rates.renewed), Some(50.0));
        gateways.take(answers(Ok(counters(5.0)), Err("refused".into())), at(4_000));
        assert_eq!(gateways.rates(), None, "the first began anew, and the second is gone");
        assert_eq!(gateways.failures(), ["b: refused"]);
        gateways.take(answers(Ok(counters(7.0)), Ok(counters(260.0))), at(6_000));
        assert_eq!(gateways.rates().map(|rates| rates.renewed), Some(21.0), "1 + 80 over 4 s");
        assert_eq!((gateways.counted(), gateways.failures()), (2, &[][..]));
    }
}
