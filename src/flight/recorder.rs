//! The flight recorder of one process: lanes over one mapping, the counters beside them, and the bell.
//!
//! Capture pushes, the writer drains and releases. Loss is counted here and nowhere else.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crossbeam_utils::CachePadded;
use uuid::Uuid;

use super::{
    bell::Bell,
    file::{ForkWord, Mapping, Medium, Region},
    header::{self, Header, Reason, flag},
    lane::{Full, Lane, Pushed, Wake},
    parse::sum,
    place::{self, Shape},
    process::Owner,
};
use crate::{
    clock::{Anchor, CoarseWall, deadline},
    error::{Error, Result},
    event::Severity,
    sync::{Condvar, Mutex},
};

/// The crossing from application threads to the writer.
#[derive(Debug)]
pub(crate) struct FlightRecorder {
    fork: ForkWord,
    lanes: Box<[CachePadded<Lane<Region>>]>,
    mapping: Arc<Mapping>,
    header: Header,
    medium: Medium,
    /// Why the medium is not the one asked for.
    fallback: Option<String>,
    block: Option<Duration>,
    bell: Bell,
    coarse_wall: CoarseWall,
    room: Mutex<()>,
    room_made: Condvar,
    /// Bytes of definitions published; guarded, because definitions are appended.
    defined: Mutex<usize>,
    /// Records that came after the end, or in a forked child.
    ignored: AtomicU64,
    /// Lanes are full because a reader pins the WAL.
    is_pinned: AtomicBool,
    pid: u32,
}

/// Room for callsite definitions: some 1,000 callsites; further ones travel with their records.
const DEFINITIONS_BYTES: usize = 256 << 10;
const LANE_BYTES_MIN: usize = 1 << 20;
const PRESSURE_BYTES: usize = 256 << 10;

impl FlightRecorder {
    pub(crate) fn open(shape: &Shape<'_>) -> Result<Self> {
        let definitions = DEFINITIONS_BYTES.min(shape.bytes / 8).next_multiple_of(4_096);
        let room = shape.bytes.saturating_sub(header::BYTES + definitions);
        let lanes = (room / LANE_BYTES_MIN).clamp(1, header::LANES_MAX);
        let lane_bytes = (room / lanes) & !4_095;
        let header = Header {
            file_bytes: (header::BYTES + definitions + lanes * lane_bytes) as u64,
            lanes,
            lane_bytes: lane_bytes as u64,
            definitions_at: header::BYTES as u64,
            definitions_bytes: definitions as u64,
            run: shape.run.into_bytes(),
            owner: Owner::current(),
            key: Uuid::new_v4().as_u64_pair().0,
        };
        let (mapping, medium, fallback) = place::map(shape, &header)?;
        let mapping = Arc::new(mapping);
        let lanes = (0..lanes)
            .map(|lane| {
                let region =
                    Region::new(Arc::clone(&mapping), header.lane_at(lane), lane_bytes, header::lane_line(lane));
                let pressure_bytes = PRESSURE_BYTES.min(lane_bytes / 4);
                CachePadded::new(Lane::new(region, lane_bytes, header.key, pressure_bytes, header.record_bytes_max()))
            })
            .collect();
        Ok(Self {
            fork: ForkWord::new()?,
            lanes,
            mapping,
            header,
            medium,
            fallback,
            block: shape.block,
            bell: Bell::new(),
            coarse_wall: CoarseWall::default(),
            room: Mutex::new(()),
            room_made: Condvar::new(),
            defined: Mutex::new(0),
            ignored: AtomicU64::new(0),
            is_pinned: AtomicBool::new(false),
            pid: std::process::id(),
        })
    }

    /// The largest body a push takes.
    pub(crate) fn record_bytes_max(&self) -> usize {
        self.header.record_bytes_max()
    }

    pub(crate) fn medium(&self) -> Medium {
        self.medium
    }

    pub(crate) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.mapping.path()
    }

    pub(crate) fn run(&self) -> Uuid {
        Uuid::from_bytes(self.header.run)
    }

    pub(crate) fn owner(&self) -> Owner {
        self.header.owner
    }

    pub(crate) fn key(&self) -> u64 {
        self.header.key
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Whether records are taken: not after `close`, not in a forked child.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.fork.is_set()
    }

    /// Whether this is a forked copy of the process that opened it.
    pub(crate) fn is_forked(&self) -> bool {
        std::process::id() != self.pid
    }

    /// From now on records are only counted.
    pub(crate) fn close(&self) {
        self.fork.clear();
        for lane in &self.lanes {
            lane.close();
        }
        self.room_made.notify_all();
    }

    /// Counts a record that came too late.
    pub(crate) fn ignore(&self) {
        self.ignored.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn ignored(&self) -> u64 {
        self.ignored.load(Ordering::Relaxed)
    }

    /// Puts one record into a lane, the preferred one if possible. Returns its stamp, or `None` if it was shed, which is
    /// then counted. `urgent` records may use the reserve.
    #[inline]
    pub(crate) fn push(&self, preferred: usize, stamp: u64, record: Pushable<'_>) -> Option<u64> {
        let first = preferred % self.lanes.len();
        let lane = &*self.lanes[first];
        // Not under the lock.
        let sum = sum(record.body);
        let outcome = match lane.try_lock() {
            Some(mut state) => lane.push(&mut state, stamp, (record.body, sum), record.urgent, record.counted),
            None => Err(Full),
        };
        match outcome {
            Ok(pushed) => Some(self.pushed(pushed)),
            Err(Full) => self.push_elsewhere(first, stamp, record, sum),
        }
    }

    #[inline]
    fn pushed(&self, pushed: Pushed) -> u64 {
        match pushed.wake {
            Wake::No => {}
            Wake::First if !self.bell.is_asleep() => {}
            Wake::First | Wake::Pressure => self.bell.ring(),
        }
        pushed.stamp
    }

    /// The other lanes by `try_lock`, then each once by waiting for its lock (a copy of a few hundred bytes long), then,
    /// if so configured, waiting for room.
    #[cold]
    fn push_elsewhere(&self, first: usize, stamp: u64, record: Pushable<'_>, sum: u64) -> Option<u64> {
        if !self.is_open() {
            self.ignore();
            return None;
        }
        if record.body.len() > self.record_bytes_max() {
            self.shed(Reason::TooLarge, record);
            return None;
        }
        let count = self.lanes.len();
        for step in 1..count {
            let lane = &self.lanes[(first + step) % count];
            if let Some(mut state) = lane.try_lock()
                && let Ok(pushed) = lane.push(&mut state, stamp, (record.body, sum), record.urgent, record.counted)
            {
                drop(state);
                return Some(self.pushed(pushed));
            }
        }
        let deadline = self.block.filter(|_| record.waits).map(deadline);
        loop {
            for step in 0..count {
                let lane = &self.lanes[(first + step) % count];
                let mut state = lane.lock();
                if let Ok(pushed) = lane.push(&mut state, stamp, (record.body, sum), record.urgent, record.counted) {
                    drop(state);
                    return Some(self.pushed(pushed));
                }
            }
            let now = Instant::now();
            match deadline {
                Some(deadline) if now < deadline && self.is_open() => {
                    self.bell.ring();
                    // A release between the look above and this wait is noticed a little later, not never.
                    let due = deadline.min(now + Duration::from_millis(10));
                    drop(self.room_made.wait_until(self.room.lock(), due));
                }
                _ => break,
            }
        }
        if !record.waits {
            return None;
        }
        if self.is_open() {
            let is_pinned = self.is_pinned.load(Ordering::Relaxed);
            self.shed(if is_pinned { Reason::ReaderPinsWal } else { Reason::BufferFull }, record);
        } else {
            self.ignore();
        }
        None
    }

    fn shed(&self, reason: Reason, record: Pushable<'_>) {
        if record.counted {
            self.count_shed(reason, record.severity, 1);
        } else {
            self.mapping.add(header::UPDATES_SHED_AT, 1);
        }
    }

    /// Says whether the writer waits for a reader to let the WAL go: what is shed meanwhile is shed for that.
    pub(crate) fn set_pinned(&self, is_pinned: bool) {
        self.is_pinned.store(is_pinned, Ordering::Relaxed);
    }

    pub(crate) fn is_pinned(&self) -> bool {
        self.is_pinned.load(Ordering::Relaxed)
    }

    /// Adds to the counters that live in the mapping.
    pub(crate) fn count_shed(&self, reason: Reason, severity: Severity, records: u64) {
        if records > 0 {
            self.mapping.add(header::shed_at(reason, severity), records);
        }
    }

    /// All that was shed since the start, by reason and severity.
    pub(crate) fn shed_counts(&self) -> impl Iterator<Item = (Reason, Severity, u64)> + '_ {
        Reason::ALL.into_iter().flat_map(move |reason| {
            Severity::ALL.into_iter().map(move |severity| {
                let count = self.mapping.load(header::shed_at(reason, severity));
                (reason, severity, count)
            })
        })
    }

    /// Closes and late values of spans that found no room: their spans stay as they were.
    pub(crate) fn updates_shed(&self) -> u64 {
        self.mapping.load(header::UPDATES_SHED_AT)
    }

    /// Records that are or were in a lane.
    pub(crate) fn recorded_in_lanes(&self) -> u64 {
        // In a forked child the locks may be held by threads that are not there.
        if self.is_forked() { 0 } else { self.lanes.iter().map(|lane| lane.recorded()).sum() }
    }

    /// Whether some lane holds much.
    pub(crate) fn is_pressed(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_pressed())
    }

    /// Bytes in use and in all, over the lanes.
    pub(crate) fn fill(&self) -> (u64, u64) {
        if self.is_forked() {
            return (0, 0);
        }
        self.lanes.iter().map(|lane| lane.used()).fold((0, 0), |all, lane| (all.0 + lane.0, all.1 + lane.1))
    }

    /// Appends a callsite's definition; says whether there was room.
    pub(crate) fn define(&self, id: u32, definition: &[u8]) -> bool {
        let mut defined = self.defined.lock();
        let need = header::DEFINITION_HEADER_BYTES + definition.len().next_multiple_of(8);
        if *defined + need > self.header.definitions_bytes as usize {
            return false;
        }
        let at = self.header.definitions_at as usize + *defined;
        self.mapping.write(at, &header::definition_header(id, definition));
        self.mapping.write(at + header::DEFINITION_HEADER_BYTES, definition);
        *defined += need;
        // Published after it is whole, and before any record names it.
        self.mapping.store(header::DEFINED_AT, *defined as u64);
        true
    }

    /// The definitions published behind the first `known` bytes, each with its number; returns how many bytes there are.
    pub(crate) fn definitions(&self, known: usize, each: impl FnMut(u32, &[u8])) -> usize {
        // Something may have overwritten the word.
        let published = (self.mapping.load(header::DEFINED_AT) as usize).min(self.header.definitions_bytes as usize);
        let mut bytes = Vec::new();
        self.mapping.read(self.header.definitions_at as usize + known, published.saturating_sub(known), &mut bytes);
        header::each_definition(&bytes, each);
        published
    }

    /// Wall time of a tick, good enough for an id.
    #[inline]
    pub(crate) fn unix_ms(&self, ticks: u64) -> u64 {
        self.coarse_wall.unix_ms(ticks)
    }

    /// Notes the clocks at the beginning of the run, for recovery.
    pub(crate) fn set_first_anchor(&self, anchor: Anchor) {
        self.store_anchors(header::FIRST_AT, &[anchor]);
    }

    /// Notes the clocks before and after the records that are stored next, for recovery.
    pub(crate) fn set_anchors(&self, first: Anchor, pair: [Anchor; 2]) {
        self.coarse_wall.set([first, pair[1]]);
        let next = self.mapping.load(header::ANCHORS_AT).wrapping_add(1);
        self.store_anchors(header::PAIRS_AT[(next % 2) as usize], &pair);
        self.mapping.store(header::ANCHORS_AT, next);
    }

    /// Notes the clocks before and after a moment at which they were set, or the machine slept.
    pub(crate) fn add_break(&self, pair: [Anchor; 2]) {
        let index = self.mapping.load(header::BREAKS_AT);
        self.store_anchors(header::break_at(index), &pair);
        self.mapping.store(header::BREAKS_AT, index.wrapping_add(1));
    }

    fn store_anchors(&self, at: usize, anchors: &[Anchor]) {
        for (index, word) in header::anchor_words(anchors).into_iter().enumerate() {
            self.mapping.store(at + index * 8, word);
        }
    }

    /// Leaves word that the main thread panicked, or that it lives on after all.
    pub(crate) fn mark_panicked(&self, panicked: bool) {
        if self.is_open() {
            let flags = if panicked { flag::PANICKED } else { 0 };
            self.mapping.store(header::FLAGS_AT, flags);
        }
    }

    /// The lanes, for draining.
    pub(super) fn lanes(&self) -> &[CachePadded<Lane<Region>>] {
        &self.lanes
    }

    /// Lets threads in that wait for room.
    pub(super) fn announce_room(&self) {
        self.room_made.notify_all();
    }

    /// Whether some lane holds records behind `positions`, each asked under its lock. Before the first drain there are
    /// none, and every lane begins at 0.
    pub(crate) fn has_more(&self, positions: &[u64]) -> bool {
        let mut positions = positions.iter().copied().chain(std::iter::repeat(0));
        self.lanes.iter().any(|lane| lane.has_more(positions.next().unwrap_or(0)))
    }

    /// Where the lanes end now: a flush is done when the drained positions have reached these.
    pub(crate) fn heads(&self) -> Vec<u64> {
        self.lanes.iter().map(|lane| lane.head()).collect()
    }

    /// Removes the file, once everything in it is stored.
    pub(crate) fn remove_file(&self) -> Result<()> {
        let Some(path) = self.path() else { return Ok(()) };
        self.mapping.remove().map_err(|error| Error::io("cannot remove the flight file", path, error))?;
        super::recover::leave_no_directory(path);
        Ok(())
    }
}

/// One record on its way into a lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pushable<'a> {
    pub(crate) body: &'a [u8],
    pub(crate) severity: Severity,
    pub(crate) urgent: bool,
    pub(crate) counted: bool,
    /// Whether its thread waits for room, if threads do; else it keeps what finds none.
    pub(crate) waits: bool,
}

/// A thread's lane: handed out in turn, so that threads spread.
pub(crate) fn next_lane() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
