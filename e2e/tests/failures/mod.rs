//! A kubelet that hangs, and what is seen of sessions from outside.

mod hung;

use std::{collections::BTreeSet, net::SocketAddrV4, path::Path};

use anyhow::Context as _;

pub(crate) use hung::hung;

/// How many established connections to this address a process has.
pub(crate) fn sockets_to(process: u32, address: &str) -> anyhow::Result<usize> {
    let address: SocketAddrV4 = address.parse().context("not an address")?;
    // As the kernel writes it: the bytes of the address as a number of this machine.
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let dir = format!("/proc/{process}");
    let held = std::fs::read_dir(format!("{dir}/fd")).context("the process is gone")?.flatten();
    let held: BTreeSet<_> = held.filter_map(|entry| std::fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok()).collect();
    let mut count = 0;
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("{dir}/net/{table}")).context("could not list connections")?.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (Some(to), Some(state), Some(inode)) = (fields.get(2), fields.get(3), fields.get(9)) else { continue };
            count += usize::from(to.ends_with(&remote) && *state == "01" && held.contains(&format!("socket:[{inode}]")));
        }
    }
    Ok(count)
}

/// How many processes of that name the containers of a machine have, by its control group.
pub(crate) fn processes_in(group: &str, name: &str) -> anyhow::Result<usize> {
    let all = std::fs::read_dir("/proc").context("could not list processes")?.flatten().map(|entry| entry.path());
    // It may have ended meanwhile.
    let of = |process: &Path, file: &str| std::fs::read_to_string(process.join(file)).unwrap_or_default();
    Ok(all.filter(|process| of(process, "comm").trim_end() == name && of(process, "cgroup").contains(&format!("/{group}/"))).count())
}
