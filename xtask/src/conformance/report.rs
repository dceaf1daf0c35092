//! Reading what ginkgo reports, as JSON.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

/// How long a message may be that is kept: what is there to see of it stands at its beginning.
const MESSAGE_CHARS: usize = 600;

/// How a test went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) state: State,
    pub(super) seconds: f64,
    /// Why it failed or was left out, if it said so.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) message: String,
}

/// How a test ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Passed,
    Failed,
    /// It found that it does not apply here.
    Skipped,
}

/// What a run reports.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Report {
    /// The tests that ran, by their full names.
    pub(super) tests: BTreeMap<String, Outcome>,
    /// What failed before, after or beside the tests.
    pub(super) beside: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    #[serde(default)]
    spec_reports: Vec<Spec>,
    /// Why the whole failed, where no test did.
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    #[serde(default)]
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    #[serde(default)]
    leaf_node_text: String,
    state: String,
    /// In nanoseconds.
    #[serde(default)]
    run_time: u64,
    /// How often it was begun: never, if a filter left it out.
    #[serde(default)]
    num_attempts: u32,
    #[serde(default)]
    failure: Failure,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    #[serde(default)]
    message: String,
}

impl Spec {
    /// As people call it: the texts of what it stands in, then its own.
    fn name(&self) -> String {
        let texts = self.container_hierarchy_texts.iter().flatten().chain([&self.leaf_node_text]);
        texts.filter(|text| !text.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    fn state(&self) -> Option<State> {
        match self.state.as_str() {
            "passed" => Some(State::Passed),
            "skipped" if self.num_attempts > 0 => Some(State::Skipped),
            "skipped" | "pending" | "" => None,
            // failed, panicked, timedout, interrupted, aborted
            _ => Some(State::Failed),
        }
    }

    fn message(&self) -> String {
        self.failure.message.chars().take(MESSAGE_CHARS).collect()
    }
}

impl Report {
    /// Reads a report's file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
        let suites: Vec<Suite> =
            serde_json::from_reader(BufReader::new(file)).with_context(|| format!("{} is no report of ginkgo", path.display()))?;
        Ok(Self::of(suites))
    }

    fn of(suites: Vec<Suite>) -> Self {
        let mut report = Self::default();
        for suite in suites {
            report.beside.extend(suite.special_suite_failure_reasons.into_iter().flatten());
            for spec in suite.spec_reports {
                let Some(state) = spec.state() else { continue };
                let message = spec.message();
                if spec.leaf_node_type == "It" {
                    // Nanoseconds of hours fit without loss that anybody could see.
                    let seconds = std::time::Duration::from_nanos(spec.run_time).as_secs_f64();
                    report.tests.insert(spec.name(), Outcome { state, seconds, message });
                } else if state == State::Failed {
                    report.beside.push(format!("{}: {message}", spec.leaf_node_type));
                }
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(specs: &Value) -> Report {
        Report::of(serde_json::from_value(json!([{ "SpecReports": specs, "SpecialSuiteFailureReasons": null }])).unwrap())
    }

    fn spec(state: &str, attempts: u32) -> Value {
        json!({
            "ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeType": "It", "LeafNodeText": "run [Conformance]",
            "State": state, "RunTime": 1_500_000_000_u64, "NumAttempts": attempts, "Failure": { "Message": "because" },
        })
    }

    #[test]
    fn a_test_is_called_by_all_its_texts() {
        let found = report(&json!([spec("passed", 1)]));
        let expected = Outcome { state: State::Passed, seconds: 1.5, message: "because".to_owned() };
        assert_eq!(found.tests, BTreeMap::from([("[sig-node] Pods run [Conformance]".to_owned(), expected)]));
    }

    #[test]
    fn what_no_filter_chose_is_no_outcome_and_what_left_itself_out_is_one() {
        assert!(report(&json!([spec("skipped", 0), spec("pending", 0)])).tests.is_empty());
        let states: Vec<_> = report(&json!([spec("skipped", 1)])).tests.into_values().map(|outcome| outcome.state).collect();
        assert_eq!(states, [State::Skipped]);
    }

    #[test]
    fn whatever_ends_badly_has_failed() {
        for state in ["failed", "panicked", "timedout", "interrupted", "aborted"] {
            let states: Vec<_> = report(&json!([spec(state, 1)])).tests.into_values().map(|outcome| outcome.state).collect();
            assert_eq!(states, [State::Failed], "{state}");
        }
    }

    #[test]
    fn what_fails_beside_the_tests_is_told() {
        let setup = json!({ "LeafNodeType": "SynchronizedBeforeSuite", "State": "failed", "Failure": { "Message": "no nodes" } });
        assert_eq!(report(&json!([setup])).beside, ["SynchronizedBeforeSuite: no nodes"]);
    }
}
