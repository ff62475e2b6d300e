//! The processor's time-stamp counter: a stamp in 11 ns where `Instant` takes 30.
//!
//! Only trusted where the kernel itself keeps time by it, for a counter the kernel distrusts jumps between cores.
//! The intrinsics are `unsafe fn` for historical reasons only; this and `flight/file.rs` are the crate's unsafe code.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod arch {
    use std::sync::LazyLock;

    pub(in crate::clock) fn is_trusted() -> bool {
        static TRUSTED: LazyLock<bool> = LazyLock::new(|| {
            std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
                .is_ok_and(|source| source.trim() == "tsc")
        });
        *TRUSTED
    }

    #[inline(always)]
    #[allow(unsafe_code)]
    pub(in crate::clock) fn read() -> u64 {
        // SAFETY: RDTSC exists on every x86_64 processor and only reads a register.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// Not executed before earlier instructions are done, nor after later ones have begun.
    #[allow(unsafe_code)]
    pub(in crate::clock) fn read_ordered() -> u64 {
        // SAFETY: LFENCE and RDTSC exist on every x86_64 processor; neither touches memory.
        unsafe {
            core::arch::x86_64::_mm_lfence();
            let ticks = core::arch::x86_64::_rdtsc();
            core::arch::x86_64::_mm_lfence();
            ticks
        }
    }
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
mod arch {
    pub(in crate::clock) fn is_trusted() -> bool {
        false
    }

    pub(in crate::clock) fn read() -> u64 {
        0
    }

    pub(in crate::clock) fn read_ordered() -> u64 {
        0
    }
}

pub(super) use arch::{is_trusted, read, read_ordered};
