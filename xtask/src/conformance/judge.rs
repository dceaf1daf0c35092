//! What the outcomes of both sides say together, and what is wrong with that.

use std::collections::BTreeMap;

use anyhow::bail;

use super::{
    Side,
    exceptions::{Exceptions, Why},
    plan::Plan,
    record::Record,
    report::{Outcome, State},
};

/// All tests of a plan, judged.
#[derive(Debug)]
pub(super) struct Judgement<'a> {
    pub(super) rows: Vec<Row<'a>>,
}

/// One test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) name: &'a str,
    pub(super) native: Option<&'a Outcome>,
    pub(super) tenant: Option<&'a Outcome>,
    pub(super) finding: Finding<'a>,
}

/// What there is to say of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Finding<'a> {
    /// It passes on both sides.
    Passes,
    /// It left itself out natively: it does not apply to such a cluster.
    DoesNotApply,
    /// It differs, by this rule.
    Refused(&'a str),
    /// It differs, for this cause.
    Open(&'a str),
    /// It is not run, for this reason.
    NotHere(&'a str),
    /// It did not run on both sides.
    Unknown,
    /// It differs, and nothing says why.
    Unlisted,
    /// It is listed, and passes.
    ListedAndPasses,
    /// It fails natively, and nothing says why.
    FailsNatively,
}

/// What a test stands under in the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Heading {
    Passes,
    Refused,
    Open,
    NotHere,
    DoesNotApply,
    Unknown,
    Wrong,
}

impl<'a> Finding<'a> {
    /// Where it stands, and what is said there.
    pub(super) fn says(self) -> (Heading, &'a str) {
        match self {
            Self::Passes => (Heading::Passes, "passes on both sides"),
            Self::DoesNotApply => (Heading::DoesNotApply, "says natively that it does not apply"),
            Self::Refused(rule) => (Heading::Refused, rule),
            Self::Open(cause) => (Heading::Open, cause),
            Self::NotHere(reason) => (Heading::NotHere, reason),
            Self::Unknown => (Heading::Unknown, "did not run on both sides"),
            Self::Unlisted => (Heading::Wrong, "differs, and is not listed"),
            Self::ListedAndPasses => (Heading::Wrong, "is listed, and passes"),
            Self::FailsNatively => (Heading::Wrong, "fails natively, and is not listed"),
        }
    }
}

/// Judges each test of a plan.
pub(super) fn judge<'a>(plan: &'a Plan, records: &'a BTreeMap<Side, Record>, exceptions: &'a Exceptions) -> Judgement<'a> {
    let why = exceptions.by_test();
    let outcome = |side: Side, name: &str| records.get(&side).and_then(|record| record.tests.get(name));
    let rows = plan.names().iter().map(|name| {
        let (native, tenant) = (outcome(Side::Native, name), outcome(Side::Tenant, name));
        let states = (native.map(|outcome| outcome.state), tenant.map(|outcome| outcome.state));
        Row { name, native, tenant, finding: find(states, why.get(name.as_str()).copied()) }
    });
    Judgement { rows: rows.collect() }
}

fn find(states: (Option<State>, Option<State>), why: Option<Why<'_>>) -> Finding<'_> {
    if let Some(Why::NotHere(reason)) = why {
        return Finding::NotHere(reason);
    }
    match (states, why) {
        ((Some(State::Failed), _), _) => Finding::FailsNatively,
        ((Some(State::Skipped), _), _) => Finding::DoesNotApply,
        ((None, _) | (_, None), _) => Finding::Unknown,
        ((Some(State::Passed), Some(State::Passed)), None) => Finding::Passes,
        ((Some(State::Passed), Some(State::Passed)), Some(_)) => Finding::ListedAndPasses,
        (_, None) => Finding::Unlisted,
        (_, Some(Why::Refused(rule))) => Finding::Refused(rule),
        (_, Some(Why::Open(cause) | Why::NotHere(cause))) => Finding::Open(cause),
    }
}

impl Judgement<'_> {
    /// How many tests stand under a heading.
    pub(super) fn count(&self, heading: Heading) -> usize {
        self.rows.iter().filter(|row| row.finding.says().0 == heading).count()
    }

    /// Whether the run has failed: for what is wrong, what did not run although both sides were asked, and if `strict`, for what is open.
    pub(super) fn verdict(&self, strict: bool, both: bool) -> anyhow::Result<()> {
        let (wrong, unknown, open) = (self.count(Heading::Wrong), self.count(Heading::Unknown), self.count(Heading::Open));
        if wrong > 0 {
            bail!("{wrong} tests are not as conformance/exceptions.yaml says");
        }
        if both && unknown > 0 {
            bail!("{unknown} tests did not run");
        }
        if strict && open > 0 {
            bail!("{open} differences are not mended yet");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
refused: [{rule: no, tests: [refused]}]
open: [{cause: later, tests: [open]}]
not-here: [{reason: nowhere, tests: [not here]}]
";

    fn judged(name: &str, native: Option<State>, tenant: Option<State>, check: impl Fn(&Judgement<'_>)) {
        let (plan, exceptions) = (Plan::of(&[name]), Exceptions::parse(TEXT).unwrap());
        let record = |state: Option<State>| {
            let outcome = |state| Outcome { state, seconds: 0.0, message: String::new() };
            Record { tests: state.map(|state| (name.to_owned(), outcome(state))).into_iter().collect(), ..Record::default() }
        };
        let records = BTreeMap::from([(Side::Native, record(native)), (Side::Tenant, record(tenant))]);
        check(&judge(&plan, &records, &exceptions));
    }

    #[track_caller]
    fn finds(name: &str, native: Option<State>, tenant: Option<State>, expected: Finding<'_>) {
        judged(name, native, tenant, |judgement| assert_eq!(judgement.rows[0].finding, expected));
    }

    const PASSED: Option<State> = Some(State::Passed);
    const FAILED: Option<State> = Some(State::Failed);
    const SKIPPED: Option<State> = Some(State::Skipped);

    #[test]
    fn a_difference_is_what_the_file_says_or_a_fault() {
        finds("other", PASSED, PASSED, Finding::Passes);
        for differs in [FAILED, SKIPPED] {
            finds("other", PASSED, differs, Finding::Unlisted);
            finds("refused", PASSED, differs, Finding::Refused("no"));
            finds("open", PASSED, differs, Finding::Open("later"));
        }
        finds("refused", PASSED, PASSED, Finding::ListedAndPasses);
        finds("open", PASSED, PASSED, Finding::ListedAndPasses);
    }

    #[test]
    fn what_the_bed_itself_fails_is_no_difference() {
        finds("other", FAILED, FAILED, Finding::FailsNatively);
        finds("open", FAILED, None, Finding::FailsNatively);
        finds("other", SKIPPED, SKIPPED, Finding::DoesNotApply);
        finds("not here", None, None, Finding::NotHere("nowhere"));
    }

    #[test]
    fn a_side_that_is_missing_is_no_pass() {
        finds("other", PASSED, None, Finding::Unknown);
        finds("other", None, PASSED, Finding::Unknown);
        judged("other", PASSED, None, |judgement| {
            assert!(judgement.verdict(false, true).is_err());
            assert!(judgement.verdict(false, false).is_ok());
        });
    }

    #[test]
    fn open_differences_fail_only_who_is_strict() {
        judged("open", PASSED, FAILED, |judgement| {
            assert!(judgement.verdict(false, true).is_ok());
            assert!(judgement.verdict(true, true).is_err());
        });
        judged("refused", PASSED, FAILED, |judgement| assert!(judgement.verdict(true, true).is_ok()));
        judged("refused", PASSED, PASSED, |judgement| assert!(judgement.verdict(false, false).is_err()));
    }
}
