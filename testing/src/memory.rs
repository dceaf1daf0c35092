//! The peak of this process's memory, by the kernel's count.

use std::fs;

use parking_lot::{Mutex, MutexGuard};

const MIB: u64 = 1024 * 1024;

static ALONE: Mutex<()> = Mutex::new(());

/// Memory since it was made; nobody else measures meanwhile.
pub struct Peak {
    before_bytes: u64,
    program_bytes: u64,
    _alone: MutexGuard<'static, ()>,
}

impl Peak {
    /// Waits for its turn and sets the kernel's high-water mark back.
    pub fn start() -> Self {
        let alone = ALONE.lock();
        // "5" resets VmHWM to the present size: proc_pid_clear_refs(5).
        fs::write("/proc/self/clear_refs", "5").unwrap();
        Self { before_bytes: status("VmRSS:"), program_bytes: status("RssFile:"), _alone: alone }
    }

    /// Asserts that no more than so much was added at any time.
    #[track_caller]
    pub fn at_most_mib(self, mib: u64) {
        // Pages of the program itself that were touched for the first time meanwhile are nobody's input.
        let program = status("RssFile:").saturating_sub(self.program_bytes);
        let grown = status("VmHWM:").saturating_sub(self.before_bytes).saturating_sub(program);
        assert!(grown <= mib * MIB, "memory grew by {} KiB, more than {mib} MiB", grown / 1024);
    }
}

fn status(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}
