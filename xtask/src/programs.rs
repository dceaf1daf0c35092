//! `cargo xtask programs`: builds what the other tasks need of other projects, so that what a first run waits for is paid by itself.

use e2e::{
    machine,
    programs::{ConformancePrograms, NodePrograms, Programs, Release},
};
use indicatif::MultiProgress;

use crate::tool;

/// Finds everything, or builds it into the cache.
pub(crate) async fn run() -> anyhow::Result<()> {
    let progress = MultiProgress::new();
    let programs = Programs::locate_or_build(&progress).await?;
    let older = programs.of(Release::Older, &progress).await?;
    println!("Kubernetes {}: {}", Release::Newest.minor(), programs.dir().display());
    println!("Kubernetes {}: {}", Release::Older.minor(), older.dir().display());
    if let Some(lacking) = machine::lacking() {
        println!("{}", lacking.skipped("the programs of a node and Kubernetes' own tests"));
    } else {
        NodePrograms::locate_or_build(&progress).await?;
        ConformancePrograms::locate_or_build(&progress).await?;
        println!("The programs of a node and Kubernetes' own tests are there");
    }
    for tool in [tool::NEXTEST, tool::DENY, tool::FUZZ] {
        println!("{}", tool.ensure()?.display());
    }
    Ok(())
}
