//! What `cargo xtask test` says at the end: a table of the steps, and how many tests passed.

use std::fmt::Write as _;
use std::time::Duration;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As it should.
    Passed,
    /// Otherwise.
    Failed,
    /// Not begun, since an earlier one failed.
    NotRun,
}

/// How many tests ran in a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tests {
    passed: usize,
    failed: usize,
}

impl Tests {
    /// Reads the head of a `JUnit` report: `<testsuites … tests="3" … failures="1" errors="0">`.
    pub(super) fn of_junit(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("<testsuites ")?;
        let (head, _) = rest.split_once('>')?;
        let number = |name: &str| {
            let (_, rest) = head.split_once(&format!(" {name}=\""))?;
            rest.split_once('"')?.0.parse::<usize>().ok()
        };
        let failed = number("failures")? + number("errors")?;
        Some(Self { passed: number("tests")?.checked_sub(failed)?, failed })
    }
}

/// A line of the table.
pub(super) struct Row {
    /// The step.
    pub(super) name: &'static str,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// The tests in it.
    pub(super) tests: Tests,
    /// How long it took.
    pub(super) took: Duration,
}

impl Row {
    /// A step that was not begun.
    pub(super) fn not_run(name: &'static str) -> Self {
        Self { name, outcome: Outcome::NotRun, tests: Tests::default(), took: Duration::ZERO }
    }
}

/// The table, and the closing line that counts tests.
///
/// A step without tests of its own that failed counts as one failed test: the line never says that all is well when it is not.
pub(super) fn table(rows: &[Row], took: Duration) -> String {
    let mut out = String::from("step         result     time   tests\n");
    let (mut passed, mut failed) = (0, 0);
    for row in rows {
        let outcome = match row.outcome {
            Outcome::Passed => "ok",
            Outcome::Failed => "FAILED",
            Outcome::NotRun => "not run",
        };
        let ran = row.tests.passed + row.tests.failed;
        let tests = if ran == 0 { "-".to_owned() } else { format!("{} of {ran}", row.tests.passed) };
        let _ = writeln!(out, "{:<12} {outcome:<8} {:>6}   {tests}", row.name, clock(row.took));
        passed += row.tests.passed;
        failed += if row.outcome == Outcome::Failed { row.tests.failed.max(1) } else { 0 };
    }
    let _ = writeln!(out, "{:<12} {:<8} {:>6}\n", "all", if failed == 0 { "ok" } else { "FAILED" }, clock(took));
    let _ = writeln!(out, "{passed} passed, {failed} failed");
    out
}

/// Minutes and seconds: `4:07`.
fn clock(took: Duration) -> String {
    format!("{}:{:02}", took.as_secs() / 60, took.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_counted() {
        let head =
            r#"<?xml version="1.0"?><testsuites name="nextest-run" tests="12" failures="2" errors="1" uuid="x" time="1.0"><testsuite/>"#;
        assert_eq!(Tests::of_junit(head), Some(Tests { passed: 9, failed: 3 }));
        assert_eq!(Tests::of_junit("<testsuites name=\"cut off\""), None);
    }

    #[test]
    fn the_table_names_what_failed_and_what_did_not_run() {
        let row = |name, outcome, passed, failed| Row { name, outcome, tests: Tests { passed, failed }, took: Duration::from_secs(67) };
        let rows = [
            row("format", Outcome::Passed, 0, 0),
            row("clippy", Outcome::Failed, 0, 0),
            row("unit", Outcome::Failed, 10, 2),
            Row::not_run("e2e"),
        ];
        let wanted = "\
step         result     time   tests
format       ok         1:07   -
clippy       FAILED     1:07   -
unit         FAILED     1:07   10 of 12
e2e          not run    0:00   -
all          FAILED     3:21

10 passed, 3 failed
";
        assert_eq!(table(&rows, Duration::from_secs(201)), wanted);
    }
}
