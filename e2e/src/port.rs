//! Ports on loopback that no other bed on this machine has.

use std::{
    fs::{File, TryLockError},
    net::TcpListener,
    ops::RangeInclusive,
    path::Path,
};

use anyhow::{Context as _, bail};

/// Below the range from which Linux takes source ports (32768 and up), so that a stopped server finds its port free again.
const RANGE: RangeInclusive<u16> = 11_000..=29_999;

/// A claim on one port of 127.0.0.1, given up when dropped.
///
/// # Guarantees
/// No other bed holds the same port: the claim is a locked file, and the lock ends with the process. Nobody listened on it when it
/// was claimed.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// Claims a port.
    pub fn claim() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join("virtualcluster-ports");
        std::fs::create_dir_all(&dir).with_context(|| format!("could not make {}", dir.display()))?;
        let len = RANGE.end() - RANGE.start();
        let first = u16::try_from(std::process::id() % u32::from(len)).unwrap_or_default();
        for step in 0..len {
            let number = RANGE.start() + (first.wrapping_add(step) % len);
            if let Some(port) = Self::try_claim(number, &dir)? {
                return Ok(port);
            }
        }
        bail!("no free port in {}..={}", RANGE.start(), RANGE.end())
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    fn try_claim(number: u16, dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = dir.join(number.to_string());
        let claim = File::options().create(true).truncate(false).write(true).open(&path);
        let claim = claim.with_context(|| format!("could not open {}", path.display()))?;
        match claim.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error).context("could not lock a port"),
        }
        let free = TcpListener::bind(("127.0.0.1", number)).is_ok();
        Ok(free.then_some(Self { number, _claim: claim }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claimed_port_is_not_given_twice() {
        let ports: Vec<_> = (0..20).map(|_| Port::claim().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
    }
}
