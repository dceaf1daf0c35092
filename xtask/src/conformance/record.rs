//! The last outcome of each test on one side, kept in a file.

use std::{collections::BTreeMap, io::ErrorKind, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{
    Side,
    report::{Outcome, Report},
};

/// What is known of one side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// On what the tests ran last, in words.
    #[serde(default)]
    pub(super) bed: String,
    /// The last outcome of each test.
    #[serde(default)]
    pub(super) tests: BTreeMap<String, Outcome>,
}

impl Record {
    /// What is kept, or nothing.
    pub(super) fn read(dir: &Path, side: Side) -> anyhow::Result<Self> {
        let path = dir.join(format!("{}.json", side.name()));
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            text => text.with_context(|| format!("could not read {}", path.display()))?,
        };
        serde_json::from_slice(&text).with_context(|| format!("{} is no record of ours; remove it", path.display()))
    }

    /// Takes in what a run reported, and keeps it.
    pub(super) fn take(&mut self, report: Report, bed: &str, dir: &Path, side: Side) -> anyhow::Result<()> {
        bed.clone_into(&mut self.bed);
        self.tests.extend(report.tests);
        let path = dir.join(format!("{}.json", side.name()));
        let text = serde_json::to_vec_pretty(self).context("could not write outcomes down")?;
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))
    }
}
