//! The outcomes as text: a summary for the terminal, and `docs/conformance.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use e2e::programs::KUBERNETES;

use super::{
    Side,
    judge::{Finding, Heading, Judgement, Row},
    record::Record,
    report::{Outcome, State},
};

/// The first line of a message says what failed; the rest shows objects.
const MESSAGE_CHARS: usize = 160;

/// What differs or did not run, in the page's order, and how the page calls it.
const SECTIONS: [(Heading, &str); 6] = [
    (Heading::Refused, "Differs: refused by a rule"),
    (Heading::Open, "Differs: not mended yet"),
    (Heading::NotHere, "Not run on this bed"),
    (Heading::DoesNotApply, "Leaves itself out"),
    (Heading::Unknown, "Without an outcome"),
    (Heading::Wrong, "Wrong"),
];

/// For the terminal: counts, then what is wrong or not mended, with what the test said.
pub(super) fn summary(judgement: &Judgement<'_>) -> String {
    let mut text = format!("\n{}\n", counts(judgement));
    let told = |row: &&Row<'_>| matches!(row.finding.says().0, Heading::Open | Heading::Wrong);
    let mut rows: Vec<_> = judgement.rows.iter().filter(told).collect();
    rows.sort_by_key(|row| row.finding);
    for row in rows {
        let (heading, why) = row.finding.says();
        let open = if heading == Heading::Open { "open: " } else { "" };
        let said = if row.finding == Finding::FailsNatively { row.native } else { row.tenant };
        let _ = writeln!(text, "{open}{why}: {}\n    {}", row.name, said.map(said_first).unwrap_or_default());
    }
    text
}

fn counts(judgement: &Judgement<'_>) -> String {
    let passed = |of: fn(&Row<'_>) -> Option<State>| judgement.rows.iter().filter(|row| of(row) == Some(State::Passed)).count();
    format!(
        "{} tests: native passed {}, tenant passed {}; refused by a rule {}, open {}, not run on this bed {}, left themselves out {}, \
         without an outcome {}, wrong {}",
        judgement.rows.len(),
        passed(|row| row.native.map(|outcome| outcome.state)),
        passed(|row| row.tenant.map(|outcome| outcome.state)),
        judgement.count(Heading::Refused),
        judgement.count(Heading::Open),
        judgement.count(Heading::NotHere),
        judgement.count(Heading::DoesNotApply),
        judgement.count(Heading::Unknown),
        judgement.count(Heading::Wrong),
    )
}

/// The first line of what a test said.
fn said_first(outcome: &Outcome) -> String {
    let line = outcome.message.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().take(MESSAGE_CHARS).collect()
}

/// `docs/conformance.md`.
pub(super) fn page(judgement: &Judgement<'_>, records: &BTreeMap<Side, Record>) -> String {
    let (major, minor, patch) = KUBERNETES;
    let bed = |side: Side| records.get(&side).map(|record| record.bed.as_str()).filter(|bed| !bed.is_empty()).unwrap_or("not run");
    let mut text = format!(
        "# Conformance\n\n\
         Written by `cargo xtask conformance`; changes made here by hand are lost. The conformance tests of Kubernetes {major}.{minor}.{patch}, each run \
         twice on the test bed of two real nodes: natively on the super cluster, and inside a tenant. What may differ, and why, stands in \
         `conformance/exceptions.yaml`: a run fails if another test differs, or if one that is listed there passes.\n\n\
         - Native: {}.\n- Tenant: {}.\n\n{}.\n",
        bed(Side::Native),
        bed(Side::Tenant),
        counts(judgement),
    );
    by_area(judgement, &mut text);
    for (heading, title) in SECTIONS {
        section(judgement, heading, title, &mut text);
    }
    text
}

/// A row for each special interest group, which is how names begin.
fn by_area(judgement: &Judgement<'_>, text: &mut String) {
    let area = |row: &Row<'_>| row.name.split_whitespace().next().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let areas: BTreeSet<_> = judgement.rows.iter().map(area).collect();
    text.push_str("\n| area | tests | native passed | tenant passed | refused | open |\n| --- | --- | --- | --- | --- | --- |\n");
    for name in areas {
        let rows: Vec<_> = judgement.rows.iter().filter(|row| area(row) == name).collect();
        let passed = |outcome: Option<&Outcome>| outcome.is_some_and(|outcome| outcome.state == State::Passed);
        let count = |is: &dyn Fn(&Row<'_>) -> bool| rows.iter().filter(|row| is(row)).count();
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {} | {} | {} |",
            rows.len(),
            count(&|row| passed(row.native)),
            count(&|row| passed(row.tenant)),
            count(&|row| row.finding.says().0 == Heading::Refused),
            count(&|row| row.finding.says().0 == Heading::Open),
        );
    }
}

/// The tests under a heading, by their reasons, those with the most tests first; nothing if there are none.
fn section(judgement: &Judgement<'_>, heading: Heading, title: &str, text: &mut String) {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in &judgement.rows {
        let (stands, reason) = row.finding.says();
        if stands == heading {
            reasons.entry(reason).or_default().push(row.name);
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, tests)| std::cmp::Reverse(tests.len()));
    if !reasons.is_empty() {
        let _ = writeln!(text, "\n## {title}");
    }
    for (reason, tests) in reasons {
        let _ = writeln!(text, "\n{reason} ({}):\n", tests.len());
        for test in tests {
            let _ = writeln!(text, "- `{test}`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(state: State) -> Outcome {
        Outcome { state, seconds: 1.0, message: "\n  first line\nsecond".to_owned() }
    }

    #[test]
    fn the_page_counts_and_gives_each_difference_its_cause() {
        let (passed, failed) = (outcome(State::Passed), outcome(State::Failed));
        let row = |name, tenant, finding| Row { name, native: Some(&passed), tenant: Some(tenant), finding };
        let rows = vec![
            row("[sig-a] one", &passed, Finding::Passes),
            row("[sig-a] two", &failed, Finding::Refused("no ports of nodes")),
            row("[sig-b] three", &failed, Finding::Open("no such kind yet")),
        ];
        let judgement = Judgement { rows };
        let text = page(&judgement, &BTreeMap::new());
        assert!(text.contains("3 tests: native passed 3, tenant passed 1; refused by a rule 1, open 1"), "{text}");
        assert!(text.contains("| sig-a | 2 | 2 | 1 | 1 | 0 |"), "{text}");
        assert!(text.contains("no such kind yet (1):\n\n- `[sig-b] three`\n"), "{text}");
        assert!(!text.contains("## Wrong"), "{text}");
        let text = summary(&judgement);
        assert!(text.contains("open: no such kind yet: [sig-b] three\n    first line\n"), "{text}");
    }
}
