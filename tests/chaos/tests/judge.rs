//! Tests that the judge can fail.
//!
//! Records of a sound run pass. Each way of tampering with them is found, through files, merge and
//! verdict as in a real run.

use palisade_chaos::judge::{Evidence, judge};
use palisade_chaos::record::Record;
use palisade_sim::checker::{Call, End, Holder, Mode, Operation, Outcome, Reached, TenureRecord};

/// Three clients in two processes take turns on one name, check it, and come late.
struct Story {
    records: [Record; 2],
    tenures: Vec<TenureRecord>,
    now_us: u64,
}

const TTL_MS: u32 = 1_000;

impl Story {
    fn told() -> Story {
        let mut story =
            Story { records: Default::default(), tenures: Vec::new(), now_us: 1_000_000 };
        for token in 1..=30 {
            let client = (token % 3) as u32;
            story.ask(client, acquire(token), Outcome::Granted { token, ttl_ms: TTL_MS });
            story.ask(2, Call::Check { linearizable: true }, held_by(&[token]));
            story.ask(client, Call::Renew { token }, Outcome::Renewed);
            let end = match token % 5 {
                // The client stays silent until its lease is over.
                0 => {
                    story.now_us += 1_500_000;
                    End::Expired
                }
                _ => {
                    story.ask(
                        client,
                        Call::Release { token },
                        Outcome::Released { already: false },
                    );
                    End::Released
                }
            };
            story.ask(2, Call::Check { linearizable: true }, held_by(&[]));
            story.ask(client, Call::Renew { token }, Outcome::Fenced);
            story.tenures.push(TenureRecord {
                shard: 1,
                name: "a".into(),
                token,
                request: Some(100 + token),
                end: Some(end),
            });
        }
        story
    }

    fn ask(&mut self, client: u32, call: Call, result: Outcome) {
        let (name, invoke_us, return_us) = ("a".to_owned(), self.now_us, Some(self.now_us + 2_000));
        self.now_us += 3_000;
        let operation =
            Operation { client, name, shard: 1, invoke_us, return_us, tries: 0, call, result };
        self.records[client as usize % 2].operations.push(operation);
    }

    /// Finds the operation that `wanted` selects.
    fn find(&mut self, wanted: impl Fn(&Operation) -> bool) -> &mut Operation {
        self.records
            .iter_mut()
            .flat_map(|record| &mut record.operations)
            .find(|o| wanted(o))
            .expect("it is there")
    }

    /// The violations that the judge shows, after the records went through files.
    fn judged(&self) -> Vec<String> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let records = self.records.iter().enumerate().map(|(number, record)| {
            let path = dir.path().join(format!("{number}.json"));
            record.save(&path).expect("save");
            Record::load(&path).expect("load")
        });
        let evidence = Evidence {
            records: records.collect(),
            watches: Vec::new(),
            reached: Reached::default(),
            tenures: self.tenures.clone(),
            quiet: vec![(0, self.now_us)],
            drifted: false,
        };
        let verdict = judge(&evidence);
        assert_eq!(verdict.undecided, 0);
        assert_eq!(verdict.violations == 0, verdict.shown.is_empty());
        verdict.shown
    }

    #[track_caller]
    fn is_found(&self, invariant: &str) {
        let shown = self.judged();
        assert!(
            shown.iter().any(|what| what.starts_with(invariant)),
            "not found broken: {invariant}; but {shown:#?}"
        );
    }
}

fn acquire(token: u64) -> Call {
    Call::Acquire {
        request: 100 + token,
        mode: Mode::Exclusive,
        ttl_ms: TTL_MS,
        wait_ms: 0,
        session: 0,
    }
}

fn held_by(tokens: &[u64]) -> Outcome {
    let holders =
        tokens.iter().map(|&token| Holder { token, request: Some(100 + token) }).collect();
    Outcome::Holders { holders, waiters: 0 }
}

#[test]
fn a_sound_run_passes() {
    assert_eq!(Story::told().judged(), [""; 0]);
}

#[test]
fn a_release_that_went_missing_is_found() {
    let mut story = Story::told();
    for record in &mut story.records {
        record.operations.retain(|operation| operation.call != Call::Release { token: 7 });
    }
    story.is_found("1 exclusion");
    story.is_found("10 history");
}

#[test]
fn swapped_tokens_are_found() {
    let mut story = Story::told();
    for (token, other) in [(11, 99), (12, 11), (99, 12)] {
        let granted = Outcome::Granted { token, ttl_ms: TTL_MS };
        story.find(|operation| operation.result == granted).result =
            Outcome::Granted { token: other, ttl_ms: TTL_MS };
    }
    story.is_found("4 tokens");
    story.is_found("7 one request, one grant");
}

#[test]
fn a_lost_grant_is_found() {
    let mut story = Story::told();
    story.find(|operation| operation.result == held_by(&[13])).result = held_by(&[]);
    story.is_found("5 acknowledged, never lost");
}

#[test]
fn an_old_answer_to_a_check_is_found() {
    let mut story = Story::told();
    story.find(|operation| operation.result == held_by(&[14])).result = held_by(&[13]);
    story.is_found("8 linearizable checks");
}

#[test]
fn a_stale_holder_that_was_not_refused_is_found() {
    let mut story = Story::told();
    story.ask(0, Call::Renew { token: 3 }, Outcome::Renewed);
    story.is_found("6 stale holder refused");
}

#[test]
fn an_early_expiry_is_found_unless_clocks_drifted() {
    let mut story = Story::told();
    // Token 31 is granted 700 ms into the life of token 30's successor.
    story.ask(0, acquire(31), Outcome::Granted { token: 31, ttl_ms: TTL_MS });
    story.now_us += 700_000;
    story.ask(1, acquire(32), Outcome::Granted { token: 32, ttl_ms: TTL_MS });
    for token in [31, 32] {
        let (name, request, end) = ("a".to_owned(), Some(100 + token), Some(End::Expired));
        story.tenures.push(TenureRecord { shard: 1, name, token, request, end });
    }
    story.is_found("2 no early expiry");
    let evidence = Evidence {
        records: story.records.to_vec(),
        watches: Vec::new(),
        reached: Reached::default(),
        tenures: story.tenures.clone(),
        quiet: Vec::new(),
        drifted: true,
    };
    assert_eq!(judge(&evidence).shown, [""; 0]);
}

#[test]
fn a_phantom_in_the_history_is_found() {
    let mut story = Story::told();
    story.tenures.push(TenureRecord {
        shard: 1,
        name: "a".into(),
        token: 77,
        request: Some(177),
        end: None,
    });
    story.is_found("10 history");
}
