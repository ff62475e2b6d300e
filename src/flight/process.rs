//! Who owns a flight file, and whether that process still lives.

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Which start of the machine; zeros where the system does not say.
    pub(crate) boot: [u8; 16],
    pub(crate) pid: u32,
    /// When the process started, in the kernel's ticks since boot; 0 where the system does not say.
    pub(crate) started: u64,
}

impl Owner {
    /// This process.
    pub(crate) fn current() -> Self {
        let pid = std::process::id();
        Self { boot: boot_id(), pid, started: start_time(pid).unwrap_or(0) }
    }

    pub(super) fn is_of_this_boot(&self) -> bool {
        self.boot == boot_id()
    }

    /// Whether the process is known to live. Where the system does not say, the file's lock alone decides.
    pub(super) fn is_alive(&self) -> bool {
        self.started != 0 && self.may_be_alive()
    }

    /// Whether the process lives or cannot be told to be dead.
    pub(crate) fn may_be_alive(&self) -> bool {
        let unknown = self.started == 0 || !cfg!(target_os = "linux");
        unknown || self.is_of_this_boot() && start_time(self.pid) == Some(self.started)
    }
}

#[cfg(target_os = "linux")]
fn boot_id() -> [u8; 16] {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .ok()
        .and_then(|text| uuid::Uuid::parse_str(text.trim()).ok())
        .map_or([0; 16], uuid::Uuid::into_bytes)
}

/// Field 22 of `/proc/PID/stat`, counted behind the name, which may itself contain spaces and brackets. A zombie is
/// dead: it writes nothing more.
#[cfg(target_os = "linux")]
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(not(target_os = "linux"))]
fn boot_id() -> [u8; 16] {
    [0; 16]
}

#[cfg(not(target_os = "linux"))]
fn start_time(_: u32) -> Option<u64> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_a_finished_child_is_not() {
        assert!(Owner::current().is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let owner = Owner { pid, started: start_time(pid).unwrap_or(1), ..Owner::current() };
        child.wait().unwrap();
        assert!(!owner.is_alive());
        assert!(!Owner { started: owner.started + 1, ..Owner::current() }.is_alive());
        assert!(!Owner { boot: [1; 16], ..Owner::current() }.is_alive());
    }
}
