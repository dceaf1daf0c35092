//! `conformance/exceptions.yaml`: which tests may differ, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Exceptions {
    /// Tests that ask for what a tenant may not have.
    #[serde(default)]
    refused: Vec<Refused>,
    /// Differences that are to be mended.
    #[serde(default)]
    open: Vec<Open>,
    /// Tests that cannot pass on this bed, whoever asks.
    #[serde(default)]
    not_here: Vec<NotHere>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Refused {
    /// Which rule of the policy, or of the design, refuses it.
    rule: String,
    tests: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Open {
    /// What is missing or wrong.
    cause: String,
    tests: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotHere {
    /// What the bed lacks.
    reason: String,
    tests: Vec<String>,
}

/// Why a test may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why<'a> {
    /// By this rule, for ever.
    Refused(&'a str),
    /// For this cause, until it is mended.
    Open(&'a str),
    /// It is not run, for this reason.
    NotHere(&'a str),
}

impl Exceptions {
    /// Reads the file.
    ///
    /// # Errors
    /// If a test is named twice, or an entry gives no reason or names no test.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let parsed: Self = serde_saphyr::from_str(text)?;
        let mut seen = BTreeSet::new();
        for (why, tests) in parsed.entries() {
            let (Why::Refused(reason) | Why::Open(reason) | Why::NotHere(reason)) = why;
            ensure!(!reason.trim().is_empty(), "an entry gives no reason: {tests:?}");
            ensure!(!tests.is_empty(), "an entry names no test: {reason}");
            for test in tests {
                ensure!(seen.insert(test.as_str()), "named twice: {test}");
            }
        }
        Ok(parsed)
    }

    /// In the file's order.
    fn entries(&self) -> impl Iterator<Item = (Why<'_>, &[String])> {
        let refused = self.refused.iter().map(|entry| (Why::Refused(&entry.rule), entry.tests.as_slice()));
        let open = self.open.iter().map(|entry| (Why::Open(&entry.cause), entry.tests.as_slice()));
        let not_here = self.not_here.iter().map(|entry| (Why::NotHere(&entry.reason), entry.tests.as_slice()));
        refused.chain(open).chain(not_here)
    }

    /// Why each named test may differ.
    pub(super) fn by_test(&self) -> BTreeMap<&str, Why<'_>> {
        self.entries().flat_map(|(why, tests)| tests.iter().map(move |test| (test.as_str(), why))).collect()
    }

    /// The tests that are not run.
    pub(super) fn not_here(&self) -> impl Iterator<Item = &str> {
        self.not_here.iter().flat_map(|entry| entry.tests.iter().map(String::as_str))
    }

    /// Fails if a test is named that there is not: a newer Kubernetes may have renamed it.
    pub(super) fn only_names(&self, all: &BTreeSet<String>) -> anyhow::Result<()> {
        let unknown: Vec<_> = self.by_test().into_keys().filter(|test| !all.contains(*test)).collect();
        ensure!(unknown.is_empty(), "conformance/exceptions.yaml names tests that there are not:\n  {}", unknown.join("\n  "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
refused:
- rule: no host ports
  tests: [a, b]
open:
- cause: no such kind yet
  tests: [c]
not-here:
- reason: no registry
  tests: [d]
";

    #[test]
    fn each_test_has_its_reason() {
        let found = Exceptions::parse(TEXT).unwrap();
        let expected = [
            ("a", Why::Refused("no host ports")),
            ("b", Why::Refused("no host ports")),
            ("c", Why::Open("no such kind yet")),
            ("d", Why::NotHere("no registry")),
        ];
        assert_eq!(found.by_test(), BTreeMap::from(expected));
        assert_eq!(found.not_here().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn a_test_is_named_once_and_with_a_reason() {
        for text in ["open: [{cause: x, tests: [a, a]}]", "open: [{cause: ' ', tests: [a]}]", "open: [{cause: x, tests: []}]", "other: []"]
        {
            assert!(Exceptions::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_among_the_tests_is_told() {
        let all = ["a", "b", "c"].map(str::to_owned).into();
        let error = Exceptions::parse(TEXT).unwrap().only_names(&all).unwrap_err().to_string();
        assert!(error.ends_with("\n  d"), "{error}");
    }

    #[test]
    fn the_file_itself_is_read() {
        Exceptions::read(&crate::root().join("conformance/exceptions.yaml")).unwrap();
    }
}
