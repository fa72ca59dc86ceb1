//! What can be wrong with a plan's input: each error names the key to change.

/// Input that no plan can be made of, and what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Not YAML, or not a mapping.
    #[error("the {what} is not valid YAML: {problem}")]
    Yaml {
        /// Workload or calibration.
        what: &'static str,
        /// As the parser says.
        problem: String,
    },
    /// A key that does not exist.
    #[error("`{key}` is no key of a {what}{}", did_you_mean(.nearest))]
    UnknownKey {
        /// Workload or calibration.
        what: &'static str,
        /// As written.
        key: String,
        /// The one that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value that is impossible, or of the wrong type.
    #[error("`{key}` {problem}")]
    Value {
        /// Whose.
        key: &'static str,
        /// What is wrong and what to write instead.
        problem: String,
    },
    /// Nothing says how many locks are taken.
    #[error(
        "the workload has no rate: give `instances` (times `locks_per_instance_per_min`), `acquire_per_s` or \
         `events_per_day`"
    )]
    NoRate,
    /// Two keys say how many locks are taken.
    #[error("`{0}` and `{1}` both give the rate: keep one of them")]
    TwoRates(&'static str, &'static str),
    /// A figure past 64 bits, or past what a float holds exactly enough.
    #[error("{figure} is too large to compute with: check `{check}`")]
    Overflow {
        /// As named in the JSON report.
        figure: &'static str,
        /// The keys that drive it.
        check: &'static str,
    },
}

fn did_you_mean(nearest: &Option<&str>) -> String {
    nearest.map_or(String::new(), |key| format!(": did you mean `{key}`?"))
}
