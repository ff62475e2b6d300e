//! What is recorded at all: directives in `EnvFilter`'s syntax, replaceable while every thread reads them.
//!
//! The same gate filters globally (`init`, `install`) or only l0's layer (`layer()`); both report a true level hint, so
//! that l0 never makes the rest of the process prepare records nobody wants.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use arc_swap::{ArcSwap, Guard as Loaded};
use tracing_core::{LevelFilter, Metadata, Subscriber, span, subscriber::Interest};
use tracing_subscriber::{
    EnvFilter,
    layer::{Context, Filter, Layer},
    registry::LookupSpan,
};

use crate::error::{Error, Result};

/// A filter that can be replaced.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    filter: Arc<ArcSwap<EnvFilter>>,
    /// Whether some directive depends on spans; without one, spans need not be told to the filter.
    by_span: Arc<AtomicBool>,
}

/// Directives that were read.
#[derive(Debug)]
pub(crate) struct Parsed {
    filter: EnvFilter,
    by_span: bool,
}

/// Reads directives, strictly.
pub(crate) fn parse(directives: &str) -> Result<Parsed> {
    for word in directives.split(',').map(str::trim) {
        // A bare word is a target to EnvFilter; these are meant as levels.
        let meant = match word.to_ascii_lowercase().as_str() {
            "warning" => "warn",
            "err" | "fatal" | "critical" => "error",
            "verbose" | "all" => "trace",
            "information" | "notice" => "info",
            "none" | "silent" | "quiet" => "off",
            _ => continue,
        };
        return Err(Error::config(format!(
            "filter {directives:?}: {word:?} is not a level, did you mean {meant:?}? Levels are off, error, warn, info, debug and trace"
        )));
    }
    let filter = EnvFilter::builder().parse(directives).map_err(|error| {
        Error::config(format!(
            "filter {directives:?} cannot be read: {error}; write it as in \"info,my_crate=debug,other::module=off\""
        ))
    })?;
    Ok(Parsed { filter, by_span: directives.contains('[') })
}

impl Gate {
    pub(crate) fn new(parsed: Parsed) -> Self {
        Self {
            filter: Arc::new(ArcSwap::from_pointee(parsed.filter)),
            by_span: Arc::new(AtomicBool::new(parsed.by_span)),
        }
    }

    /// Replaces the filter for every callsite, those already registered included.
    pub(crate) fn set(&self, parsed: Parsed) {
        self.filter.store(Arc::new(parsed.filter));
        self.by_span.store(parsed.by_span, Ordering::Release);
        // While a process has one dispatcher, tracing-core asks only the calling thread's default, which is none where
        // that dispatcher is scoped to another thread, and then turns everything off. A second one makes it ask all.
        drop(tracing_core::Dispatch::new(tracing_core::subscriber::NoSubscriber::new()));
        tracing_core::callsite::rebuild_interest_cache();
    }

    /// The filter, if it wants to hear of spans.
    #[inline]
    fn by_span(&self) -> Option<Loaded<Arc<EnvFilter>>> {
        self.by_span.load(Ordering::Acquire).then(|| self.filter.load())
    }
}

/// `EnvFilter` is both a `Layer` and a `Filter`; so is the gate, with the same callbacks.
macro_rules! span_callbacks {
    () => {
        fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
            if let Some(filter) = self.by_span() {
                filter.on_new_span(attributes, id, ctx);
            }
        }

        fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
            if let Some(filter) = self.by_span() {
                filter.on_record(id, values, ctx);
            }
        }

        fn on_enter(&self, id: &span::Id, ctx: Context<'_, S>) {
            if let Some(filter) = self.by_span() {
                filter.on_enter(id, ctx);
            }
        }

        fn on_exit(&self, id: &span::Id, ctx: Context<'_, S>) {
            if let Some(filter) = self.by_span() {
                filter.on_exit(id, ctx);
            }
        }

        fn on_close(&self, id: span::Id, ctx: Context<'_, S>) {
            if let Some(filter) = self.by_span() {
                filter.on_close(id, ctx);
            }
        }
    };
}

impl<S: Subscriber> Layer<S> for Gate {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        Layer::<S>::register_callsite(&**self.filter.load(), metadata)
    }

    fn enabled(&self, metadata: &Metadata<'_>, ctx: Context<'_, S>) -> bool {
        self.filter.load().enabled(metadata, ctx)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.filter.load().max_level_hint()
    }

    span_callbacks!();
}

impl<S> Filter<S> for Gate
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &Metadata<'_>, ctx: &Context<'_, S>) -> bool {
        Filter::<S>::enabled(&**self.filter.load(), metadata, ctx)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        Filter::<S>::callsite_enabled(&**self.filter.load(), metadata)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        self.filter.load().max_level_hint()
    }

    span_callbacks!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_strictly_and_errors_teach() {
        for good in ["info", "info,shop=debug", "off", "", "shop[checkout]=trace", "warn,h2=off"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for (bad, hint) in
            [("shop=verbose", "shop=verbose"), ("warning", "\"warn\""), ("info,=,", "cannot be read"), ("a[", "a[")]
        {
            let error = parse(bad).expect_err(bad);
            assert!(error.is_config() && error.to_string().contains(hint), "{error}");
        }
    }
}
