//! Named points in the code at which a test may end the process, wait, or change a file.
//!
//! Each step between memory and disk that a crash could separate from the next one calls `hit` with its name. Without
//! the feature `__fail_points` the call compiles to nothing. The crate's own tests switch the feature on.

#[cfg(feature = "__fail_points")]
mod registry {
    use std::sync::{
        LazyLock,
        atomic::{AtomicBool, Ordering},
    };

    use parking_lot::RwLock;

    /// What a test does at a point; it receives the point's name.
    type Action = Box<dyn Fn(&'static str) + Send + Sync>;

    static IS_SET: AtomicBool = AtomicBool::new(false);
    static ACTION: LazyLock<RwLock<Option<Action>>> = LazyLock::new(RwLock::default);

    /// Calls `action` at every fail point of this process from now on.
    pub fn set(action: impl Fn(&'static str) + Send + Sync + 'static) {
        *ACTION.write() = Some(Box::new(action));
        IS_SET.store(true, Ordering::Release);
    }

    #[inline]
    pub(crate) fn hit(name: &'static str) {
        if IS_SET.load(Ordering::Acquire)
            && let Some(action) = &*ACTION.read()
        {
            action(name);
        }
    }
}

#[cfg(feature = "__fail_points")]
pub(crate) use registry::hit;
#[cfg(feature = "__fail_points")]
pub use registry::set;

#[cfg(not(feature = "__fail_points"))]
#[inline(always)]
pub(crate) fn hit(_: &'static str) {}
