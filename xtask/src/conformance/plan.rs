//! Which tests there are, asked of the tests themselves.

use std::{collections::BTreeSet, path::Path, process::Stdio};

use anyhow::{Context as _, ensure};
use e2e::{errand, programs::ConformancePrograms};

use super::report::Report;

/// The label of tests that every cluster must pass.
pub(super) const LABEL: &str = "Conformance";

/// How the names of tests say that no other may run at the same time.
const SERIAL: &str = "[Serial]";

/// Tests by their full names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    names: BTreeSet<String>,
    /// What they were chosen by, for ginkgo.
    pub(super) focus: Option<String>,
    /// Likewise, what they were not chosen by.
    pub(super) skips: Vec<String>,
}

impl Plan {
    /// Asks which conformance tests these expressions choose.
    pub(super) async fn make(programs: &ConformancePrograms, dir: &Path, focus: Option<&str>, skip: Option<&str>) -> anyhow::Result<Self> {
        let path = dir.join("plan.json");
        let mut command = errand::command(&programs.e2e_test);
        command
            .args(["--ginkgo.dry-run", "--ginkgo.no-color", &format!("--ginkgo.label-filter={LABEL}")])
            .arg(format!("--ginkgo.json-report={}", path.display()))
            .args(focus.map(|focus| format!("--ginkgo.focus={focus}")))
            .args(skip.map(|skip| format!("--ginkgo.skip={skip}")))
            // Nobody is asked.
            .arg("--kubeconfig=/nonexistent")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = errand::run(command).await.context("could not run e2e.test")?;
        ensure!(output.status.success(), "e2e.test does not say which tests it has: {}", String::from_utf8_lossy(&output.stderr));
        let names = Report::read(&path)?.tests.into_keys().collect();
        Ok(Self { names, focus: focus.map(str::to_owned), skips: skip.map(str::to_owned).into_iter().collect() })
    }

    /// The same without these, which are not run.
    pub(super) fn without<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut plan = self.clone();
        for name in names {
            if plan.names.remove(name) {
                plan.skips.push(quoted(name));
            }
        }
        plan
    }

    pub(super) fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many run alone, or beside others.
    pub(super) fn count(&self, serial: bool) -> usize {
        self.names.iter().filter(|name| is_serial(name) == serial).count()
    }
}

fn is_serial(name: &str) -> bool {
    name.contains(SERIAL)
}

/// A regular expression that matches this text.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if !c.is_alphanumeric() && c != ' ' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}

#[cfg(test)]
impl Plan {
    pub(super) fn of(names: &[&str]) -> Self {
        Self { names: names.iter().map(|name| (*name).to_owned()).collect(), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_is_told_to_ginkgo_word_for_word() {
        let plan = Plan::of(&["[sig-a] x (a+b) [Conformance]", "[sig-b] y [Serial] [Conformance]"]);
        let rest = plan.without(["[sig-a] x (a+b) [Conformance]", "of another suite"]);
        assert_eq!(rest.names, Plan::of(&["[sig-b] y [Serial] [Conformance]"]).names);
        assert_eq!(rest.skips, [r"\[sig\-a\] x \(a\+b\) \[Conformance\]"]);
        assert_eq!((rest.count(true), rest.count(false)), (1, 0));
    }
}
