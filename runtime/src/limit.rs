//! Limits that the kernel sets a process.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Lets this process open as many descriptors as it may at all, and gives their number.
///
/// A process begins with a soft limit of 1024 under most service managers and container engines, kept so low for programs that use
/// `select`; each session of vn-agent is two descriptors, each tenant of vc-syncer one or two.
pub fn raise_descriptors() -> io::Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_opened_is_as_much_as_the_hard_limit_says() {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 256.min(most), most).unwrap();
        assert_eq!(raise_descriptors().unwrap(), most);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (most, most));
    }
}
