//! How the story looks on a terminal, and its last page.

use std::process::Stdio;

use anyhow::Context as _;
use tokio::process::Command;

use super::stage::Stage;

/// A line of the story.
pub(super) fn line(text: &str) {
    println!("{text}");
}

/// A new scene.
pub(super) fn scene(title: &str) {
    println!("\n── {title}\n");
}

/// Something that was looked up and is so.
pub(super) fn so(text: &str) {
    println!("  ✓ {text}");
}

/// What somebody typed and what came of it.
pub(super) fn typed(who: &str, command: &str, said: &str) {
    println!("    {who} $ {command}");
    for line in said.lines() {
        println!("      {line}");
    }
}

/// A table with aligned columns, indented.
pub(super) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("      {}", cells.join("   ").trim_end());
    }
}

/// Where the kubeconfigs are and what to try; with `check`, each command is run.
pub(super) async fn by_hand(stage: &Stage, check: bool) -> anyhow::Result<()> {
    scene("Try it by hand");
    let first = stage.tenants.first().context("there is no tenant")?;
    let (sup, tenant) = (stage.bed.sup.kubeconfig().display(), stage.plane(first)?.kubeconfig().display());
    let mut rows = vec![vec!["super cluster".to_owned(), sup.to_string()]];
    for tenant in &stage.tenants {
        rows.push(vec![tenant.name.clone(), stage.plane(tenant)?.kubeconfig().display().to_string()]);
    }
    table(&rows);
    let kubectl = stage.bed.programs().kubectl();
    let kubectl = kubectl.display();
    let sees = ("what a tenant sees", format!("{kubectl} --kubeconfig {tenant} get pods,services,nodes -o wide"));
    let runs = ("where it all runs", format!("{kubectl} --kubeconfig {sup} get pods -A -L {} -o wide", common::keys::TENANT));
    let commands = if stage.agent().is_some() {
        let log = ("what a container wrote", format!("{kubectl} --kubeconfig {tenant} logs deployment/web"));
        let exec =
            ("a shell in one is `exec -it client -- sh`; or", format!("{kubectl} --kubeconfig {tenant} exec client -- kubectl get pods"));
        [sees, log, exec, runs]
    } else {
        let more = ("a tenant asks for more", format!("{kubectl} --kubeconfig {tenant} scale deployment web --replicas 4"));
        [sees, more, runs, ("the tenants themselves", format!("{kubectl} --kubeconfig {sup} get virtualclusters -A"))]
    };
    line("");
    for (what, command) in &commands {
        println!("    # {what}\n    {command}");
    }
    line("");
    for (_, command) in commands.iter().filter(|_| check) {
        works(command).await?;
    }
    if check {
        so("each of the four commands works");
    }
    Ok(())
}

async fn works(command: &str) -> anyhow::Result<()> {
    let mut words = command.split(' ');
    let mut program = Command::new(words.next().context("an empty command")?);
    let output = program.args(words).stdin(Stdio::null()).kill_on_drop(true).output().await?;
    anyhow::ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
