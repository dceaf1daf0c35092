//! Running the tests of one side, with ginkgo.

use std::{fs::File, os::unix::fs::symlink, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use e2e::{errand, programs::ConformancePrograms};
use tokio::time::{Instant, interval};

use super::{
    Options, Side,
    plan::{LABEL, Plan},
    record::Record,
    report::Report,
    stage::Stage,
};

/// Longer than all tests take, one after the other: what hangs is ended by the tests' own time limits long before.
const TIMEOUT: &str = "--timeout=8h";

/// How often something is said while tests run.
const SAY: Duration = Duration::from_secs(30);

/// Runs the tests that may run beside others, then the others, and takes their outcomes in.
pub(super) async fn side(
    side: Side,
    plan: &Plan,
    stage: &Stage,
    options: &Options,
    programs: &ConformancePrograms,
    dir: &Path,
    record: &mut Record,
) -> anyhow::Result<()> {
    for serial in [false, true] {
        let count = plan.count(serial);
        if count == 0 {
            continue;
        }
        let name = format!("{}-{}", side.name(), if serial { "serial" } else { "parallel" });
        let phase = Phase { name: &name, count, serial };
        let report = phase.run(side, plan, stage, options, programs, dir).await.with_context(|| format!("{name} was not run"))?;
        for failure in &report.beside {
            println!("{name}: beside the tests: {failure}");
        }
        ensure!(!report.tests.is_empty(), "{name}: no test ran; the log is {}", dir.join(&name).join("log").display());
        record.take(report, &Stage::about(side), dir, side)?;
    }
    Ok(())
}

struct Phase<'a> {
    name: &'a str,
    count: usize,
    serial: bool,
}

impl Phase<'_> {
    async fn run(
        &self,
        side: Side,
        plan: &Plan,
        stage: &Stage,
        options: &Options,
        programs: &ConformancePrograms,
        dir: &Path,
    ) -> anyhow::Result<Report> {
        let dir = dir.join(self.name);
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("could not empty {}", dir.display()))?;
        }
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        // ginkgo puts reports of a program elsewhere under names that are its path.
        symlink(&programs.e2e_test, dir.join("e2e.test")).context("could not link to the tests")?;
        let (report, log) = (dir.join("report.json"), dir.join("log"));
        let output = File::create(&log).with_context(|| format!("could not make {}", log.display()))?;
        let procs = if self.serial { 1 } else { options.procs };
        let mut ginkgo = errand::command(&programs.ginkgo);
        ginkgo
            .current_dir(&dir)
            .args(["--no-color", "--keep-going", "--silence-skips", "--json-report=report.json", TIMEOUT])
            .arg(format!("--procs={procs}"))
            .arg(format!("--label-filter={LABEL} && {}Serial", if self.serial { "" } else { "!" }))
            .args(plan.focus.iter().map(|focus| format!("--focus={focus}")))
            .args(plan.skips.iter().map(|skip| format!("--skip={skip}")))
            .args(["./e2e.test", "--", "--provider=skeleton", "--node-schedulable-timeout=3m", "--system-pods-startup-timeout=3m"])
            .arg(format!("--kubeconfig={}", stage.kubeconfig(side)?.display()))
            .arg(format!("--kubectl-path={}", stage.kubectl().display()))
            .stdout(output.try_clone().context("could not share the log")?)
            .stderr(Stdio::from(output));
        let began = Instant::now();
        println!("{}: {} tests, {procs} at once; the log is {}", self.name, self.count, log.display());
        let mut ended = std::pin::pin!(errand::run(ginkgo));
        let (mut ticks, mut told) = (interval(SAY), Told::default());
        loop {
            tokio::select! {
                ended = &mut ended => {
                    ended.context("could not run ginkgo")?;
                    break;
                }
                _ = ticks.tick() => told.tell(self, &log, began),
            }
        }
        told.tell(self, &log, began);
        // How it ended says no more than the report, and nothing if there is none.
        Report::read(&report).with_context(|| format!("ginkgo reports nothing; the log is {}", log.display()))
    }
}

/// What was said of a run so far.
#[derive(Default)]
struct Told {
    ended: usize,
    failed: usize,
}

impl Told {
    /// Says how many tests have ended, and which have failed since.
    fn tell(&mut self, phase: &Phase<'_>, log: &Path, began: Instant) {
        // The log may be away for a moment only.
        let text = std::fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let (ended, failed) = progress(&text);
        for name in failed.iter().skip(self.failed) {
            println!("{}: failed: {name}", phase.name);
        }
        if ended != self.ended {
            let seconds = began.elapsed().as_secs();
            println!(
                "{}: {ended} of {}, {} failed, after {} min {:02} s",
                phase.name,
                phase.count,
                failed.len(),
                seconds / 60,
                seconds % 60
            );
        }
        *self = Self { ended, failed: failed.len() };
    }
}

/// How many tests have ended by what ginkgo has written so far, and the names of those that failed, in order.
fn progress(log: &str) -> (usize, Vec<&str>) {
    /// What ginkgo writes for each test that has ended.
    const DOT: char = '•';
    let mut failed = Vec::new();
    let mut lines = log.lines();
    while let Some(line) = lines.next() {
        let bad = ["[FAILED]", "[PANICKED]", "[TIMEDOUT]", "[INTERRUPTED]"];
        let end = line.rfind(DOT).and_then(|at| line.get(at + DOT.len_utf8()..)).unwrap_or_default().trim_start();
        if bad.iter().any(|word| end.starts_with(word)) {
            failed.extend(lines.next().map(str::trim));
        }
    }
    (log.matches(DOT).count(), failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dot_is_a_test_and_failures_have_names() {
        let log =
            "Running\n••• [FAILED] [12.1 seconds]\n[sig-node] Pods [It] run [Conformance]\nsome.go:12\n•\n• [SLOW TEST] [33 seconds]\n";
        assert_eq!(progress(log), (5, vec!["[sig-node] Pods [It] run [Conformance]"]));
    }
}
