//! The processor's time-stamp counter: a stamp in 11 ns where `Instant` takes 30.
//!
//! Only trusted where the kernel itself keeps time by it, for a counter the kernel distrusts jumps between cores.
//! The intrinsics are `unsafe fn` for historical reasons only; this and `flight/file.rs` are the crate's unsafe code.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod arch {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    };

    /// Added to the counter; grows when the counter was set back, as by a suspend or a restored virtual machine.
    static OFFSET: AtomicU64 = AtomicU64::new(0);
    /// A smaller step back than this, a tenth of a second or so, is none.
    const SET_BACK_MIN_TICKS: u64 = 1 << 28;
    /// The latest ordered reading.
    static LATEST: AtomicU64 = AtomicU64::new(0);

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
        let counter = unsafe { core::arch::x86_64::_rdtsc() };
        counter.wrapping_add(OFFSET.load(Ordering::Relaxed))
    }

    /// Not executed before earlier instructions are done, nor after later ones have begun. Notices a counter that was
    /// set back, and goes on from where it stood.
    #[allow(unsafe_code)]
    pub(in crate::clock) fn read_ordered() -> u64 {
        // SAFETY: LFENCE and RDTSC exist on every x86_64 processor; neither touches memory.
        let ticks = unsafe {
            core::arch::x86_64::_mm_lfence();
            let ticks = core::arch::x86_64::_rdtsc();
            core::arch::x86_64::_mm_lfence();
            ticks
        };
        continued(ticks, &OFFSET, &LATEST)
    }

    /// The reading with the offset, which is raised if the reading lies before an earlier one.
    fn continued(counter: u64, offset: &AtomicU64, latest: &AtomicU64) -> u64 {
        let added = offset.load(Ordering::Relaxed);
        let now = counter.wrapping_add(added);
        let before = latest.fetch_max(now, Ordering::Relaxed);
        // Two threads that read at the same time may come here in either order.
        if now.saturating_add(SET_BACK_MIN_TICKS) >= before {
            return now;
        }
        // Of several threads that notice one sets it right.
        let raised = added.wrapping_add(before - now);
        let _ = offset.compare_exchange(added, raised, Ordering::Relaxed, Ordering::Relaxed);
        before
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_counter_that_was_set_back_goes_on() {
            let (offset, latest) = (AtomicU64::new(0), AtomicU64::new(0));
            let readings = [1 << 40, 2 << 40, (2 << 40) - 9, 10, 510, 600];
            let readings = readings.map(|counter| continued(counter, &offset, &latest));
            assert_eq!(readings, [1 << 40, 2 << 40, (2 << 40) - 9, 2 << 40, (2 << 40) + 500, (2 << 40) + 590]);
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
