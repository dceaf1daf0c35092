//! What tests left out and why, from their processes to the task that runs them: a line each in a file.

use std::{fs, io::Write as _, path::PathBuf};

use anyhow::Context as _;

use crate::env;

fn path() -> PathBuf {
    env::workspace().join("target/e2e/left-out")
}

/// Notes one thing, with its reason.
pub fn note(what: &str) {
    eprintln!("left out: {what}");
    let file = fs::OpenOptions::new().create(true).append(true).open(path());
    // A test is not failed by a remark about it, but who counts them is told that one is missing.
    if let Err(error) = file.and_then(|mut file| writeln!(file, "{what}")) {
        eprintln!("it could not be noted in {}: {error}", path().display());
    }
}

/// What was noted since this was last called.
pub fn take() -> anyhow::Result<Vec<String>> {
    let path = path();
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
    fs::remove_file(&path).with_context(|| format!("could not remove {}", path.display()))?;
    Ok(text.lines().map(str::to_owned).collect())
}
