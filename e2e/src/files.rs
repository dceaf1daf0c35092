//! The files of a folder.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Every file in a folder, and in those below it, whose name ends so; in order.
pub fn files(dir: &Path, end: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| format!("could not list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, end)?);
        } else if path.as_os_str().as_encoded_bytes().ends_with(end.as_bytes()) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_folders_below_are_found_too() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("b.log")).unwrap();
        for name in ["c.log", "b.log/a.log", "a.key"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(files(dir.path(), ".log").unwrap(), ["b.log/a.log", "c.log"].map(|name| dir.path().join(name)));
        assert_eq!(files(dir.path(), "").unwrap().len(), 3);
    }
}
