//! The errors of a plan's input. Each names the key to change.

/// Input that no plan can be made of, and the change to make.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The text is not YAML, or not a mapping.
    #[error("the {what} is not valid YAML: {problem}")]
    Yaml {
        /// Kind of the file: workload or calibration.
        what: &'static str,
        /// The message of the parser.
        problem: String,
    },
    /// A key does not exist.
    #[error("`{key}` is not a key of a {what}{}", did_you_mean(.nearest))]
    UnknownKey {
        /// Kind of the file: workload or calibration.
        what: &'static str,
        /// The key as it was written.
        key: String,
        /// The key that was probably meant.
        nearest: Option<&'static str>,
    },
    /// A value is impossible or of the wrong type.
    #[error("`{key}` {problem}")]
    Value {
        /// The key of that value.
        key: &'static str,
        /// The fault, and the value to write instead.
        problem: String,
    },
    /// The workload gives no rate.
    #[error(
        "the workload has no rate: give `instances` (times `locks_per_instance_per_min`), \
         `acquire_per_s` or `events_per_day`"
    )]
    NoRate,
    /// Two keys give the rate.
    #[error("`{0}` and `{1}` both give the rate: keep one of them")]
    TwoRates(&'static str, &'static str),
    /// A figure is past 64 bits, or past the exact range of a float.
    #[error("{figure} is too large to compute with: check `{check}`")]
    Overflow {
        /// Name of the figure in the JSON report.
        figure: &'static str,
        /// The keys that drive the figure.
        check: &'static str,
    },
}

fn did_you_mean(nearest: &Option<&str>) -> String {
    nearest.map_or(String::new(), |key| format!(": did you mean `{key}`?"))
}
