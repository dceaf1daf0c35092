//! Child processes that end with us, whatever ends us: return, panic, Ctrl-C, SIGTERM or SIGKILL.
//!
//! A child asks the kernel for SIGKILL at its parent's death (`setpriv --pdeathsig`, of util-linux). The kernel means the parent's
//! *thread* by that, so one thread that lives as long as the process starts them all. A shell between the two checks that
//! the parent was still there after the request was made, then becomes the program.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, mpsc},
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

/// Refuses to run if the parent died before the request for its death signal was made, else becomes the program.
const BECOME: &str = r#"test "$PPID" = "$0" || exit 111; exec "$@""#;

/// How often the kernel counts CPU time in `/proc`: `USER_HZ`, 100 a second on every Linux that Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Name for messages.
    pub name: String,
    /// The program's file.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Environment variables beside the inherited ones.
    pub env: Vec<(String, String)>,
    /// Where standard output and error are appended.
    pub log: PathBuf,
    /// How long [`Process::stop`] waits after SIGTERM before SIGKILL.
    pub patience: Duration,
}

impl Spec {
    /// A program with its arguments, logging to `dir/name.log`.
    pub fn new(name: &str, program: &Path, args: impl IntoIterator<Item = String>, dir: &Path) -> Self {
        Self {
            name: name.to_owned(),
            program: program.to_owned(),
            args: args.into_iter().collect(),
            env: Vec::new(),
            log: dir.join(format!("{name}.log")),
            patience: Duration::from_secs(15),
        }
    }
}

/// A program that runs, or ran, in a process group of its own. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    spec: Spec,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    child: Option<Child>,
    /// CPU time of earlier runs, as last seen before they were ended by us.
    earlier_cpu: Duration,
}

impl Process {
    /// Starts the program.
    pub fn start(spec: Spec) -> anyhow::Result<Self> {
        let process = Self { spec, state: Mutex::default() };
        process.start_again()?;
        Ok(process)
    }

    /// Starts the program again after it was stopped, killed, or ended by itself; nothing if it runs.
    pub fn start_again(&self) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        if let Some(child) = state.child.as_mut()
            && child.try_wait().context("could not wait")?.is_none()
        {
            return Ok(());
        }
        state.child = Some(spawn(&self.spec)?);
        Ok(())
    }

    /// Asks the program to end, waits for it, and kills it when its patience is over.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.remember_cpu();
        self.signal(Signal::SIGTERM)?;
        self.signal(Signal::SIGCONT)?;
        let start = Instant::now();
        while start.elapsed() < self.spec.patience {
            if !self.is_running() {
                return Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.kill()
    }

    /// Kills the program (SIGKILL) and waits until it is gone.
    pub fn kill(&self) -> anyhow::Result<()> {
        self.remember_cpu();
        self.signal(Signal::SIGKILL)?;
        let mut state = self.state.lock();
        if let Some(child) = state.child.as_mut() {
            child.wait().with_context(|| format!("could not wait for {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Stops the program's time (SIGSTOP): connections stay open, nothing answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a paused program go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Stops the program and starts it again.
    pub async fn restart(&self) -> anyhow::Result<()> {
        self.stop().await?;
        self.start_again()
    }

    /// Whether it runs (a paused one does).
    pub fn is_running(&self) -> bool {
        self.state.lock().child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// How it ended, if it did.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.state.lock().child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// The id of the process of the last start.
    pub fn pid(&self) -> Option<u32> {
        self.state.lock().child.as_ref().map(Child::id)
    }

    /// The name for messages.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The file that standard output and error go to, over all starts.
    pub fn log_path(&self) -> &Path {
        &self.spec.log
    }

    /// CPU time of all runs, user and system, to 10 ms.
    pub fn cpu(&self) -> Duration {
        let earlier = self.state.lock().earlier_cpu;
        earlier + self.current_cpu()
    }

    /// Resident memory now, in bytes; 0 if it does not run.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory of this run, in bytes; 0 if it does not run.
    pub fn peak_rss_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// How many files, sockets and the like it has open; 0 if it does not run.
    pub fn descriptors(&self) -> usize {
        let Some(pid) = self.pid() else { return 0 };
        std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
    }

    /// Fails, with the end of the log, if the program has ended.
    pub fn check_running(&self) -> anyhow::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let status = self.exit_status().map_or_else(|| "not started".to_owned(), |status| status.to_string());
        bail!("{} ended ({status}); the end of {}:\n{}", self.name(), self.log_path().display(), self.log_tail(15))
    }

    /// Does `work`, and fails at once if the program ends meanwhile: for programs that nobody starts again.
    pub async fn while_running<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        let ended = async {
            loop {
                if let Err(error) = self.check_running() {
                    return error;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            done = work => done,
            error = ended => Err(error),
        }
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(self.log_path()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let mut state = self.state.lock();
        let Some(child) = state.child.as_mut() else { return Ok(()) };
        if child.try_wait().context("could not wait")?.is_some() {
            return Ok(());
        }
        let group = Pid::from_raw(i32::try_from(child.id()).context("process id too large")?);
        killpg(group, signal).with_context(|| format!("could not send {signal} to {}", self.spec.name))
    }

    fn remember_cpu(&self) {
        let cpu = if self.is_running() { self.current_cpu() } else { Duration::ZERO };
        self.state.lock().earlier_cpu += cpu;
    }

    fn current_cpu(&self) -> Duration {
        let Some(pid) = self.pid() else { return Duration::ZERO };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let Some(pid) = self.pid() else { return 0 };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib: u64 = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default();
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Best effort: where it fails, the process is gone already, or the death signal ends it with us.
        let _ = self.kill();
    }
}

fn spawn(spec: &Spec) -> anyhow::Result<Child> {
    let log = File::options().create(true).append(true).open(&spec.log);
    let log = log.with_context(|| format!("could not open {}", spec.log.display()))?;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "sh", "-c", BECOME, &std::process::id().to_string()])
        .arg(&spec.program)
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("could not share the log")?)
        .stderr(log)
        .process_group(0);
    match Spawner::spawn(command) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("setpriv is missing; install util-linux"),
        other => other.with_context(|| format!("could not start {}", spec.name)),
    }
}

/// The thread that starts all children, see the module's text. One a process, because children must not outlive it and it must
/// outlive them.
struct Spawner {
    requests: mpsc::SyncSender<Request>,
}

struct Request {
    command: Command,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

static SPAWNER: LazyLock<Spawner> = LazyLock::new(Spawner::start);

impl Spawner {
    fn start() -> Self {
        let (requests, inbox) = mpsc::sync_channel::<Request>(1);
        let body = move || {
            for Request { mut command, reply } in inbox {
                // A requester that is gone dropped its wish; the child, if any, is dropped and ends with us.
                let _ = reply.send(command.spawn());
            }
        };
        let _detached = std::thread::Builder::new().name("spawner".to_owned()).spawn(body);
        Self { requests }
    }

    fn spawn(command: Command) -> io::Result<Child> {
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = |_| io::Error::other("the spawner thread is gone");
        SPAWNER.requests.send(Request { command, reply }).map_err(|_| io::Error::other("the spawner thread is gone"))?;
        answer.recv().map_err(gone)?
    }
}
