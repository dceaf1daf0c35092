//! Machines for real nodes: a set of kernel namespaces each, joined by a bridge of the bed.
//!
//! A machine has its own network, processes, mounts, `/run`, `/var/lib` and `/var/log`, and shares the rest with the real one. Its
//! first process is a [`Process`] of ours: when that ends, whatever ends it, the kernel ends all others in the machine and takes
//! back the mounts, the links and the packet filters in it. What then is left on the real machine is a bridge and empty control groups, whose
//! names begin with `vcbed` and a number: [`Network`] removes them, also those of a run that crashed.

mod cgroup;
mod needs;
mod network;

use std::{
    io::ErrorKind,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::process::Command;

pub use needs::{Lacking, lacking, left_out};
pub use network::{MACHINES, Network};

use crate::{
    process::{Process, Spec},
    wait::{Seen, eventually},
};

/// The first process of a machine: gives it folders of its own, says that it is up, and reaps what its parent left behind.
const FIRST: &str = r#"
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
mount --make-rshared /
: > "$1/up"
while :; do sleep 1000 & wait; done
"#;

/// Becomes `nsenter`, which waits for the program that it starts in the machine; SIGTERM is for that one alone.
const ENTER: &str = r#"trap '' TERM; exec nsenter "$@""#;

/// Where a machine's programs look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Whether a test that needs machines must be left out; says so. `cargo xtask test` says it once for all.
///
/// # Panics
/// If it must be, and must not: see [`left_out`].
#[expect(clippy::panic, reason = "the test that asks fails")]
pub fn skipped() -> bool {
    let lacking = left_out().unwrap_or_else(|error| panic!("{error}"));
    if let Some(lacking) = &lacking {
        eprintln!("{}", lacking.skipped("this test"));
    }
    lacking.is_some()
}

/// A running machine; ended, with everything in it, when dropped.
pub struct Machine {
    name: String,
    address: Ipv4Addr,
    pods: (Ipv4Addr, u8),
    group: String,
    dir: PathBuf,
    first: Process,
}

impl Machine {
    /// Starts machine `i`, from 0, of a network, with its files under `dir/name`.
    pub async fn start(name: &str, i: u8, network: &Network, dir: &Path) -> anyhow::Result<Self> {
        let (address, pods) = (network.machine(i)?, network.pods(i)?);
        let dir = dir.join(name);
        for folder in ["lib", "log"] {
            let folder = dir.join(folder);
            std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        }
        network.keep(&dir.join("lib"))?;
        let group = network.cgroup(i);
        cgroup::make(&group)?;
        let up = dir.join("up");
        match std::fs::remove_file(&up) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).context("could not remove a mark"),
            _ => {}
        }
        let namespaces = ["--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--net", "--mount", "--ipc", "--uts"];
        let args = namespaces.into_iter().chain(["sh", "-c", FIRST, "sh"]).map(str::to_owned).chain([dir.display().to_string()]);
        let first = Process::start(Spec::new("machine", Path::new("unshare"), args, &dir))?;
        let machine = Self { name: name.to_owned(), address, pods, group, dir, first };
        eventually(format!("{name} is up"), Duration::from_secs(20), async || {
            machine.first.check_running()?;
            Ok(Seen::when(up.is_file(), up.clone()))
        })
        .await?;
        network.plug(i, machine.pid()?)?;
        machine.connect(network).await?;
        Ok(machine)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address, on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The range of its Pods' addresses.
    pub fn pods(&self) -> String {
        format!("{}/{}", self.pods.0, self.pods.1)
    }

    /// The control group that its containers are in.
    pub fn cgroup(&self) -> &str {
        &self.group
    }

    /// Where its files lie; `lib` and `log` in it are its `/var/lib` and `/var/log`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How to run a program in it, with more folders to look for others in; logs beside its files.
    pub fn spec(&self, name: &str, program: &Path, args: impl IntoIterator<Item = String>, path: &[&Path]) -> anyhow::Result<Spec> {
        let enter = ["-c", ENTER, "sh"].map(str::to_owned).into_iter().chain(self.namespaces()?);
        let args = enter.chain([program.display().to_string()]).chain(args);
        let mut spec = Spec::new(name, Path::new("sh"), args, &self.dir);
        let folders = path.iter().map(|folder| folder.display().to_string()).chain([PATH.to_owned()]);
        spec.env.push(("PATH".to_owned(), folders.collect::<Vec<_>>().join(":")));
        Ok(spec)
    }

    /// How to run a program of the real machine with the network of this one. Its process is the program's own.
    pub fn in_network(&self, name: &str, program: &Path, args: impl IntoIterator<Item = String>) -> anyhow::Result<Spec> {
        let enter = [format!("--net=/proc/{}/ns/net", self.pid()?), "--".to_owned(), program.display().to_string()];
        Ok(Spec::new(name, Path::new("nsenter"), enter.into_iter().chain(args), &self.dir))
    }

    /// Runs a program in it to its end, and gives what it wrote.
    pub async fn run(&self, program: &Path, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("nsenter");
        command.args(self.namespaces()?).arg(program).args(args).kill_on_drop(true);
        let output = command.output().await.context("could not run nsenter")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("in {}: {} {}: {}: {}", self.name, program.display(), args.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Makes a folder the machine's own: what is in it shows through, what is written to it from now on stays in the machine.
    pub async fn own(&self, folder: &str) -> anyhow::Result<()> {
        let place = self.dir.join("own").join(folder.trim_matches('/').replace('/', "-"));
        let (upper, work) = (place.join("upper"), place.join("work"));
        for folder in [&upper, &work] {
            std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        }
        let options = format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        self.run(Path::new("mount"), &["-t", "overlay", "-o", &options, "overlay", folder]).await.map(drop)
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.first.pid().context("the machine was not started")
    }

    /// The namespaces of `unshare` itself, and for processes those that its child is in.
    fn namespaces(&self) -> anyhow::Result<Vec<String>> {
        let pid = self.pid()?;
        let of = |kind: &str, file: &str| format!("--{kind}=/proc/{pid}/ns/{file}");
        let all =
            [of("net", "net"), of("mount", "mnt"), of("ipc", "ipc"), of("uts", "uts"), of("pid", "pid_for_children"), "--".to_owned()];
        Ok(all.into())
    }

    async fn connect(&self, network: &Network) -> anyhow::Result<()> {
        let (own, gateway) = (format!("{}/24", self.address), network.address().to_string());
        let commands: [&[&str]; 4] = [
            &["link", "set", "lo", "up"],
            &["addr", "add", &own, "dev", "eth0"],
            &["link", "set", "eth0", "up"],
            &["route", "add", "default", "via", &gateway],
        ];
        for args in commands {
            self.run(Path::new("ip"), args).await?;
        }
        for other in (0..MACHINES).filter(|other| network.machine(*other).is_ok_and(|address| address != self.address)) {
            let (pods, via) = (network.pods(other)?, network.machine(other)?.to_string());
            self.run(Path::new("ip"), &["route", "add", &format!("{}/{}", pods.0, pods.1), "via", &via]).await?;
        }
        // Pods of one machine meet on a bridge, past its packet filters unless bridged packets are shown to them: a Service that
        // leads back to its own machine would be answered from an address that nobody asked.
        let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables";
        self.run(Path::new("sh"), &["-ec", settings]).await.context("could not let packets through; is br_netfilter loaded?")?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Best effort, as for every process; the control groups go with the network.
        let _ = self.first.kill();
        // Images and volumes, which may be large. Logs stay.
        let _ = std::fs::remove_dir_all(self.dir.join("lib"));
    }
}
