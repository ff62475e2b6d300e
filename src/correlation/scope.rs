//! What this thread is inside of: scopes entered by hand, and through `capture` the current span.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::OnceLock,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use super::CorrelationId;

thread_local! {
    /// How many scopes are entered: a look at it costs a thread without scopes nearly nothing.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
    static SCOPES: RefCell<Vec<(u64, CorrelationId)>> = const { RefCell::new(Vec::new()) };
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// While it lives, what this thread records belongs to an id. See [`enter`].
#[must_use = "the scope ends when this is dropped"]
pub struct Scope {
    number: u64,
    /// It belongs to the thread that entered it.
    _thread: PhantomData<*const ()>,
}

/// What this thread records from now on belongs to `id`, until the returned guard is dropped; spans that have an id of
/// their own keep it. Scopes nest. Across an `.await` use [`scope`].
pub fn enter(id: CorrelationId) -> Scope {
    let number = NEXT.try_with(|next| next.replace(next.get() + 1)).unwrap_or(0);
    let _ = SCOPES.try_with(|scopes| {
        if let Ok(mut scopes) = scopes.try_borrow_mut() {
            scopes.push((number, id));
            DEPTH.set(scopes.len());
        }
    });
    Scope { number, _thread: PhantomData }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _ = SCOPES.try_with(|scopes| {
            let Ok(mut scopes) = scopes.try_borrow_mut() else { return };
            // Guards may be dropped in any order.
            if let Some(index) = scopes.iter().rposition(|(number, _)| *number == self.number) {
                scopes.remove(index);
            }
            DEPTH.set(scopes.len());
        });
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scope").finish_non_exhaustive()
    }
}

/// A future whose every poll, on whatever thread, runs inside `id`: the `.await`-safe sibling of [`enter`].
///
/// ```
/// use l0::correlation::{self, CorrelationId};
/// let id = CorrelationId::new();
/// let inside = correlation::scope(id.clone(), async { correlation::current() });
/// # let seen = futures_lite_block_on(inside);
/// assert_eq!(seen, Some(id));
/// # fn futures_lite_block_on<F: Future>(future: F) -> F::Output {
/// #     let mut future = std::pin::pin!(future);
/// #     let mut context = std::task::Context::from_waker(std::task::Waker::noop());
/// #     match future.as_mut().poll(&mut context) { std::task::Poll::Ready(v) => v, _ => unreachable!() }
/// # }
/// ```
pub fn scope<F: Future>(id: CorrelationId, future: F) -> Scoped<F> {
    Scoped { id, future: Some(future) }
}

pin_project! {
    /// A future inside a correlation id. See [`scope`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Scoped<F> {
        id: CorrelationId,
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Scoped<F> {
        fn drop(this: Pin<&mut Self>) {
            // What its parts record while they are dropped belongs to the id, too.
            let mut this = this.project();
            let _scope = enter(this.id.clone());
            this.future.set(None);
        }
    }
}

impl<F: Future> Future for Scoped<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _scope = enter(this.id.clone());
        match this.future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending, // only `drop` takes the future
        }
    }
}

impl<F> fmt::Debug for Scoped<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Runs `f` with the innermost scope's text, if there is a scope.
#[inline]
pub(crate) fn with_scope<R>(f: impl FnOnce(&str) -> R) -> Option<R> {
    if DEPTH.try_with(Cell::get).unwrap_or(0) == 0 {
        return None;
    }
    SCOPES.try_with(|scopes| Some(f(scopes.try_borrow().ok()?.last()?.1.as_str()))).ok().flatten()
}

pub(super) fn current_scope() -> Option<CorrelationId> {
    SCOPES.try_with(|scopes| Some(scopes.try_borrow().ok()?.last()?.1.clone())).ok().flatten()
}

/// What the current span says.
pub(crate) struct Around {
    /// The id that the span, or one around it, was given.
    pub(crate) correlation_id: Option<CorrelationId>,
    pub(crate) trace_id: [u8; 16],
    /// W3C's: the span's own id, mixed with the run's key so that it differs between processes.
    pub(crate) span_id: u64,
}

/// How to ask for the current span: `capture`, which knows it, stands below this module.
static AROUND: OnceLock<fn() -> Option<Around>> = OnceLock::new();

pub(crate) fn set_around(find: fn() -> Option<Around>) {
    // The same function every time.
    let _ = AROUND.set(find);
}

pub(super) fn around() -> Option<Around> {
    AROUND.get().and_then(|find| find())
}

#[cfg(test)]
mod tests {
    use super::super::current;
    use super::*;

    fn id(text: &str) -> CorrelationId {
        text.parse().unwrap()
    }

    #[test]
    fn scopes_nest_and_end_in_any_order() {
        assert_eq!(current(), None);
        let outer = enter(id("outer"));
        let inner = enter(id("inner"));
        assert_eq!(current(), Some(id("inner")));
        drop(outer);
        assert_eq!(current(), Some(id("inner")));
        drop(inner);
        assert_eq!((current(), with_scope(|_| ())), (None, None));
    }

    #[test]
    fn a_scoped_future_is_inside_only_while_it_is_polled_and_dropped() {
        struct SeesItsEnd(std::sync::Arc<parking_lot::Mutex<Option<CorrelationId>>>);
        impl Drop for SeesItsEnd {
            fn drop(&mut self) {
                *self.0.lock() = current();
            }
        }
        let seen = std::sync::Arc::default();
        let part = SeesItsEnd(std::sync::Arc::clone(&seen));
        let mut future = Box::pin(scope(id("job"), async move {
            assert_eq!(current(), Some(id("job")));
            let _part = part;
            std::future::pending::<()>().await;
        }));
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(future.as_mut().poll(&mut cx).is_pending());
        assert_eq!(current(), None);
        drop(future);
        assert_eq!((current(), seen.lock().clone()), (None, Some(id("job"))));
    }
}
