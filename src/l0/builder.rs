//! Settings, then `start` (nothing global) or `install` (the process's subscriber).

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use uuid::Uuid;

use super::{
    handle::{Handle, Inner},
    own_checks,
    owner::{self, L0},
};
use crate::{
    capture::{Capture, Gate, mark_own_thread},
    clock::Clock,
    components::Components,
    config::{self, Config, Console, Directives, Durability, Flight, JobEvents, JobHistory, Overload, Retention},
    database::create_directory,
    error::{Error, Result},
    event::{Severity, TelemetryEvent},
    flight::{FlightRecorder, Medium, Shape},
    health::Health,
    jobs::{JobQueue, Jobs, Settings},
    limits::Limits,
    redaction::Redaction,
    state::{self, State},
    store::{Opening, Recording, RunInfo, SetAside, Shared, Source, StoreChange, Writer, run_thread},
    timer::Timer,
};

/// Records everything this process tells `tracing`, from now on: the one call of most programs.
///
/// It is exactly
///
/// ```no_run
/// # fn init() -> l0::Result<l0::L0> {
/// l0::builder()                       // directory $L0_DIR, else ./.l0
///     .default_filter("info")         // $L0_LOG, else $RUST_LOG, else this
///     .console(l0::Console::Auto)     // lines on stderr when that is a terminal
///     .panic_hook(true)               // a panic is recorded as critical, then the previous hook runs
///     .install()                      // the process's subscriber, l0::get(), records of the `log` crate
/// # }
/// ```
///
/// Keep the returned owner and call [`L0::shutdown`] at the end; if it is only dropped, everything is flushed and
/// recording goes on.
///
/// # Errors
/// `is_storage` if the directory cannot be used, `is_already_initialized` if a subscriber is already set. The program
/// can go on without l0.
///
/// ```no_run
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let l0 = l0::init()?;
///     tracing::info!(order = 9, "placed");
///     l0.shutdown(std::time::Duration::from_secs(5))?;
///     Ok(())
/// }
/// ```
pub fn init() -> Result<L0> {
    builder().default_filter(config::FILTER_DEFAULT).console(Console::Auto).panic_hook(true).install()
}

/// A builder with defaults that print nothing and install nothing.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// let l0 = l0::builder().dir(dir.path()).service("shop").default_filter("info,shop=debug").start()?;
/// # Ok::<(), l0::Error>(())
/// ```
pub fn builder() -> Builder {
    Builder { config: Config::default(), job_queue: None }
}

/// Settings of an [`L0`]. See [`builder`].
#[derive(Clone, Debug)]
#[must_use = "call start() or install()"]
pub struct Builder {
    config: Config,
    job_queue: Option<Arc<dyn JobQueue>>,
}

impl Builder {
    /// The store's directory; created if it is missing. Otherwise `$L0_DIR`, else `./.l0`.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.dir = Some(dir.into());
        self
    }

    /// Puts the store into the platform's directory for application state, as in `~/.local/state/com.acme.Editor/l0`.
    pub fn app_id(mut self, id: &str) -> Self {
        self.config.app_id = Some(id.to_owned());
        self
    }

    /// The service's name in `runs`; otherwise the executable's.
    pub fn service(mut self, name: &str) -> Self {
        self.config.service = Some(name.to_owned());
        self
    }

    /// The service's version in `runs`.
    pub fn version(mut self, version: &str) -> Self {
        self.config.version = Some(version.to_owned());
        self
    }

    /// What is recorded, in [`EnvFilter`](tracing_subscriber::EnvFilter)'s syntax, whatever the environment says.
    pub fn filter(mut self, directives: &str) -> Self {
        self.config.filter = Directives::Fixed(directives.to_owned());
        self
    }

    /// What is recorded unless `$L0_LOG` or else `$RUST_LOG` says otherwise. `info` if nothing is said.
    ///
    /// Text in the environment that cannot be read is recorded as a warning, and this is used.
    pub fn default_filter(mut self, directives: &str) -> Self {
        self.config.filter = Directives::Default(directives.to_owned());
        self
    }

    /// Where `install` prints human-readable lines; nowhere unless asked.
    pub fn console(mut self, console: Console) -> Self {
        self.config.console = console;
        self
    }

    /// What the flight recorder's memory lives in.
    pub fn flight(mut self, flight: Flight) -> Self {
        self.config.flight = flight;
        self
    }

    /// Size of the flight recorder in bytes: 16 MiB unless set, 256 KiB at least. A file of it takes no more than a sixteenth
    /// of [`Retention::max_bytes`], and those of all processes together a quarter; what it came to is in `stats`.
    pub fn buffer_bytes(mut self, bytes: u64) -> Self {
        self.config.buffer_bytes = bytes;
        self
    }

    /// How long records may wait before they are committed: a second unless set. They wait in memory that survives the
    /// process; only a power loss loses this window.
    pub fn commit_every(mut self, interval: Duration) -> Self {
        self.config.commit_every = interval;
        self
    }

    /// What happens to a record when the flight recorder is full.
    pub fn overload(mut self, overload: Overload) -> Self {
        self.config.overload = overload;
        self
    }

    /// What is redacted; see [`Redaction`] for what is without a word from you.
    pub fn redaction(mut self, redaction: Redaction) -> Self {
        self.config.redaction = redaction;
        self
    }

    /// How much the store keeps, and for how long; 256 MiB of any age unless set.
    pub fn retention(mut self, retention: Retention) -> Self {
        self.config.retention = retention;
        self
    }

    /// How many closures, and how many durable jobs of the queue `default`, run at once: as many as there are processors, but
    /// four at least, unless set. Their threads are made when they are needed.
    pub fn workers(mut self, threads: usize) -> Self {
        self.config.workers = threads;
        self
    }

    /// What jobs survive; [`Durability::Full`] unless set.
    pub fn job_durability(mut self, d: Durability) -> Self {
        self.config.job_durability = d;
        self
    }

    /// What of jobs is telemetry; all unless set.
    pub fn job_events(mut self, events: JobEvents) -> Self {
        self.config.job_events = events;
        self
    }

    /// How many finished jobs are kept, and for how long; seven days, and 10,000 of each kind and outcome, unless set.
    pub fn job_history(mut self, history: JobHistory) -> Self {
        self.config.job_history = history;
        self
    }

    /// Keeps durable jobs elsewhere than in `state.db`: [in memory](crate::jobs::MemoryQueue), or in a queue of your own.
    pub fn job_queue(mut self, queue: impl JobQueue) -> Self {
        self.job_queue = Some(Arc::new(queue));
        self
    }

    /// Where time comes from; a test's manual clock, for one.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.config.clock = clock;
        self
    }

    /// Whether `install` records panics, before the previous hook runs. `init` does.
    pub fn panic_hook(mut self, record: bool) -> Self {
        self.config.panic_hook = record;
        self
    }

    /// Opens the store and starts the writer, without touching anything global: attach
    /// [`layer`](Handle::layer) to a subscriber of your own. Dropping the owner shuts down.
    ///
    /// Blocks while it brings in what dead processes left in their flight files.
    ///
    /// # Errors
    /// `is_config` for a setting that makes no sense, `is_storage` if the directory cannot be used: it cannot be
    /// created or written, is a file, or a later version of l0 wrote it.
    pub fn start(self) -> Result<L0> {
        self.start_as(owner::Kind::Started)
    }

    /// As `start`, and makes it the process's: the global `tracing` subscriber with this filter, [`l0::get()`](crate::get),
    /// records of the `log` crate, and the console and panic hook asked for. Dropping the owner flushes; recording goes on.
    ///
    /// # Errors
    /// As `start`; `is_already_initialized` if l0 or another subscriber is already installed: then attach
    /// [`layer`](Handle::layer) to that one where it is made.
    pub fn install(self) -> Result<L0> {
        owner::install(self)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn start_as(self, kind: owner::Kind) -> Result<L0> {
        let config = self.config;
        config.validate()?;
        let (filter, complaint) = config.filter()?;
        let dir = config.directory()?;
        create_directory(&dir)?;
        let redactor = Arc::new(config.redaction.compile({
            let dir = dir.clone();
            move || state::hash_key(&dir)
        })?);
        if let Some(key) = config.redaction.key() {
            state::keep_hash_key(&dir, &key)?;
        }
        if redactor.is_strict() {
            // Not on the thread that records.
            redactor.key();
        }
        let since = config.clock.anchor();
        let mut opening = Opening::open(&dir, config.clock.clone(), Arc::clone(&redactor), Some(&config.retention))?;
        let (recovered, trusted) = (opening.recovered(), opening.trusted_clock());
        let set_aside = opening.set_aside().cloned();
        let shape = |medium, bytes: u64| Shape {
            dir: &dir,
            medium,
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
            run: Uuid::now_v7(),
            block: match config.overload {
                Overload::Shed => None,
                Overload::Block(bound) => Some(bound),
            },
        };
        let wanted = config.buffer_bytes;
        let flight = match config.flight {
            Flight::Directory => opening.admit(wanted, |bytes| match bytes {
                Some(bytes) => FlightRecorder::open(&shape(Medium::Directory, bytes)),
                // Not more of the machine's memory than it would have had of the disk.
                None => FlightRecorder::open(&shape(
                    Medium::SharedMemory,
                    wanted.min(config.retention.max_bytes / 16).max(config::BUFFER_BYTES_MIN),
                )),
            })??,
            Flight::SharedMemory => FlightRecorder::open(&shape(Medium::SharedMemory, wanted))?,
            Flight::Off => FlightRecorder::open(&shape(Medium::Memory, wanted))?,
        };
        let flight = Arc::new(flight);
        let shared = Arc::new(Shared::new(Arc::clone(&flight)));
        let info = RunInfo { service: config.service(), version: config.version.clone() };
        let commit_every = match flight.medium() {
            Medium::Memory => config.commit_every.min(config::COMMIT_EVERY_IN_MEMORY),
            Medium::Directory | Medium::SharedMemory => config.commit_every,
        };
        let started = Writer::start(opening, Arc::clone(&shared), &info).and_then(|writer| {
            let run = move || {
                mark_own_thread();
                run_thread(writer, commit_every);
            };
            let thread = std::thread::Builder::new().name("l0-writer".to_owned()).spawn(run);
            thread.map_err(|error| Error::io("cannot start the thread l0-writer for", &dir, error))
        });
        let thread = match started {
            Ok(thread) => thread,
            Err(error) => {
                // Nothing was recorded yet.
                let _ = flight.remove_file();
                return Err(error);
            }
        };
        let capture = Arc::new(Capture::new(Arc::clone(&flight), config.clock.clone(), Arc::clone(&redactor)));
        if let Some(complaint) = complaint {
            capture.warn("l0.config", complaint);
        }
        if let Some(set_aside) = set_aside {
            capture.direct_aside(&damage_event(&set_aside));
        }
        if recovered.unreadable > 0 {
            let count = recovered.unreadable;
            capture.warn(
                "l0.recovery",
                format!("{count} flight files could not be read and are set aside as flight/*.unreadable"),
            );
        }
        if recovered.damaged > 0 {
            let count = recovered.damaged;
            capture.warn("l0.recovery", format!("{count} records were damaged in flight files and are lost"));
        }
        if recovered.failed > 0 {
            let count = recovered.failed;
            capture.warn(
                "l0.recovery",
                format!(
                    "{count} flight files could not be read, removed or renamed: check their owner and permissions"
                ),
            );
        }
        if recovered.postponed > 0 {
            let count = recovered.postponed;
            capture.warn("l0.recovery", format!("{count} flight files wait for the next start: the store has no room"));
        }
        if let Some(why) = flight.fallback() {
            capture.warn("l0.flight", format!("the flight recorder is not where it was asked for: {why}"));
        } else if config.flight == Flight::Directory && flight.medium() != Medium::Directory {
            let why = "max_bytes leaves no room for a flight file beside those of other processes";
            capture.warn("l0.flight", format!("the flight recorder is in shared memory: {why}"));
        }
        let source = {
            let (writer, redactor) = (Arc::clone(&shared), Arc::clone(&redactor));
            Source::new(&dir, Some(Recording { writer, redactor, clock: config.clock.clone() }))
        };
        let (state, timer) = (Arc::new(State::new(&dir)), Arc::new(Timer::default()));
        let limits = Limits::new(
            config.clock.clone(),
            Arc::clone(&capture),
            Arc::clone(&redactor),
            Arc::clone(&state),
            source.clone(),
            &timer,
            state::saved_accounts(&dir),
        );
        let settings = Settings {
            workers: config.workers,
            durability: config.job_durability,
            events: config.job_events,
            history: config.job_history,
            queue: self.job_queue,
        };
        let jobs = Jobs::new(
            settings,
            config.clock.clone(),
            Arc::clone(&capture),
            Arc::clone(&redactor),
            Arc::clone(&state),
            Arc::clone(&timer),
        );
        let service = (info.service.clone().unwrap_or_default(), info.version.clone());
        let health = Health::new(
            config.clock.clone(),
            Arc::clone(&capture),
            Arc::clone(&redactor),
            Arc::clone(&timer),
            Arc::clone(&state),
            service.clone(),
        );
        let inner = Inner {
            components: Components::new(
                Arc::clone(&state),
                config.clock.clone(),
                Arc::clone(&capture),
                Arc::clone(&redactor),
            ),
            health,
            service,
            jobs,
            state,
            timer,
            limits,
            dir,
            capture,
            shared,
            gate: Gate::new(filter),
            source,
            commit_every,
            recovered,
            redactor,
            clock: config.clock,
            started: since,
            trusted,
            retention: config.retention,
            audit_warned: AtomicBool::new(false),
        };
        let handle = Handle::new(inner);
        {
            let capture = Arc::clone(&handle.inner.capture);
            handle.inner.state.add_readers(handle.inner.source.closer());
            handle.inner.shared.set_readers(handle.inner.source.closer());
            let of = Arc::downgrade(&handle.inner);
            handle.inner.shared.set_observer(move |change| {
                if let StoreChange::SetAside(set_aside) = change {
                    capture.direct_of_writer(&damage_event(set_aside));
                }
                if let Some(inner) = of.upgrade() {
                    inner.health.run_own_checks();
                }
            });
        }
        own_checks::attach(&handle.inner);
        Ok(L0::new(handle, thread, kind))
    }
}

/// The event that reports a damaged database.
fn damage_event(set_aside: &SetAside) -> TelemetryEvent {
    let (file, why) = (set_aside.path.display(), &set_aside.why);
    TelemetryEvent::new("l0.damage").source("l0").category("l0").severity(Severity::Critical).message(format!(
        "telemetry.db was damaged ({why}): it is set aside as {file}, and a new database takes its place; bring what can be read \
         into a new store with `l0 doctor --salvage {file}`"
    ))
}
