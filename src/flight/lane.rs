//! A lane: a ring of bytes that threads push records into, one at a time, and the writer copies out of.
//!
//! Called by `recorder.rs` for pushing and draining. `parse.rs` has the form of a record.
//!
//! A record's tag is written last, with release ordering: a process killed in the middle of a record leaves one that does not
//! parse. Everything else that threads share lies under the lane's lock. The bytes themselves are read by the writer
//! without it: those between `released` and `head` are not written again until the writer itself has released them.

use super::parse::{self, End, HEADER_BYTES, Parse};
use crate::sync::{Mutex, MutexGuard};

/// The bytes behind a lane: a part of the mapping, or a test's memory that fails at a chosen step.
pub(super) trait Memory {
    /// Copies `bytes` to `at`; they lie within the lane.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Stores one word at `at`, a multiple of 8, after every earlier write.
    fn seal(&self, at: usize, word: u64);
    /// Writes a record that does not reach over the lane's end: the words behind its tag, its body, then its tag.
    #[inline]
    fn put(&self, at: usize, tag: u64, fixed: &[u8; 16], body: &[u8]) {
        self.write(at + 8, fixed);
        self.write(at + HEADER_BYTES, body);
        self.seal(at, tag);
    }
    /// Copies the bytes at `at` to the end of `out`.
    fn read(&self, at: usize, length: usize, out: &mut Vec<u8>);
    /// Remembers, for recovery, that everything before `position` is stored, and how many counted records that were.
    fn store_released(&self, position: u64, counted: u64);
    /// Remembers, for recovery, how many counted records the lane has taken.
    fn store_recorded(&self, counted: u64);
}

/// One ring.
#[derive(Debug)]
pub(super) struct Lane<M> {
    memory: M,
    bytes: u64,
    key: u64,
    /// A push that leaves this much unread asks for the writer.
    pressure_bytes: u64,
    /// No body is longer.
    largest: usize,
    state: Mutex<State>,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct State {
    /// Where the next record goes, and its place in the ring.
    head: u64,
    offset: usize,
    /// What records may fill: the lane's bytes, or nothing after the end.
    room: u64,
    /// Everything before is stored and may be overwritten.
    released: u64,
    /// Where the last drain ended; pressure counts from here.
    drained: u64,
    last_stamp: u64,
    /// A record came since the last drain; only the first of them may have to wake the writer.
    dirty: bool,
    pressed: bool,
    recorded: u64,
}

/// The lane has no room for this record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A record is in the lane.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) stamp: u64,
    pub(super) wake: Wake,
}

/// Whether the writer should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    No,
    /// The first record since the last drain: wakes a writer that sleeps.
    First,
    /// Much is waiting: wakes a writer that waits out its interval.
    Pressure,
}

impl<M: Memory> Lane<M> {
    /// `bytes` is a multiple of 8; no body is longer than `largest`.
    pub(super) fn new(memory: M, bytes: usize, key: u64, pressure_bytes: usize, largest: usize) -> Self {
        Self {
            memory,
            bytes: bytes as u64,
            key,
            pressure_bytes: pressure_bytes as u64,
            largest,
            state: Mutex::new(State {
                head: 0,
                offset: 0,
                room: bytes as u64,
                released: 0,
                drained: 0,
                last_stamp: 0,
                dirty: false,
                pressed: false,
                recorded: 0,
            }),
        }
    }

    #[inline]
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, State>> {
        self.state.try_lock()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Appends one record, whose body has this [`sum`](parse::sum). `urgent` may use the last eighth; `counted` is one more for
    /// `recorded`.
    #[inline]
    pub(super) fn push(
        &self,
        state: &mut State,
        stamp: u64,
        (body, sum): (&[u8], u64),
        urgent: bool,
        counted: bool,
    ) -> Result<Pushed, Full> {
        let need = HEADER_BYTES + body.len().next_multiple_of(8);
        let limit = if urgent { state.room } else { state.room - state.room / 8 };
        let head = state.head;
        let next = head + need as u64;
        if next - state.released > limit {
            return Err(Full);
        }
        let stamp = stamp.max(state.last_stamp);
        let tag = head ^ self.key;
        let fixed = parse::fixed(tag, stamp, body.len(), counted, sum);
        let capacity = self.bytes as usize;
        let at = state.offset;
        if at + need <= capacity {
            self.memory.put(at, tag, &fixed, body);
        } else {
            self.write_wrapped(at + 8, &fixed);
            self.write_wrapped(at + HEADER_BYTES, body);
            self.memory.seal(at, tag);
        }
        state.last_stamp = stamp;
        state.head = next;
        state.offset = if at + need >= capacity { at + need - capacity } else { at + need };
        if counted {
            state.recorded += 1;
            self.memory.store_recorded(state.recorded);
        }
        let wake = if !state.dirty {
            state.dirty = true;
            Wake::First
        } else if next - state.drained >= self.pressure_bytes && !state.pressed {
            state.pressed = true;
            Wake::Pressure
        } else {
            Wake::No
        };
        Ok(Pushed { stamp, wake })
    }

    #[cold]
    fn write_wrapped(&self, at: usize, bytes: &[u8]) {
        let capacity = self.bytes as usize;
        let at = if at >= capacity { at - capacity } else { at };
        let first = bytes.len().min(capacity - at);
        self.memory.write(at, &bytes[..first]);
        if first < bytes.len() {
            self.memory.write(0, &bytes[first..]);
        }
    }

    /// Copies at most about `max_bytes` from `from` on to `out`; says where the lane's head was, and how many counted records
    /// were before it.
    pub(super) fn copy(&self, from: u64, max_bytes: u64, out: &mut Vec<u8>) -> (u64, u64) {
        let (head, length) = {
            let mut state = self.state.lock();
            let length = (state.head - from).min(max_bytes);
            state.dirty = false;
            state.pressed = false;
            state.drained = from + length;
            ((state.head, state.recorded), length as usize)
        };
        let capacity = self.bytes as usize;
        let at = (from % self.bytes) as usize;
        let first = length.min(capacity - at);
        self.memory.read(at, first, out);
        if first < length {
            self.memory.read(0, length - first, out);
        }
        head
    }

    /// The records in bytes that begin at `position`.
    pub(super) fn parse<'b>(&self, bytes: &'b [u8], position: u64, end: End) -> Parse<'b> {
        Parse::new(bytes, position, self.key, self.largest, end)
    }

    /// Gives the space before `position` back. `counted` is the number of counted records before it. An empty lane skips to its start, so that a quiet program touches the
    /// same pages again and again. Returns where the next drain begins.
    pub(super) fn release(&self, position: u64, counted: u64) -> u64 {
        let mut state = self.state.lock();
        let mut released = position;
        if state.head == position {
            released = position.next_multiple_of(self.bytes);
            state.head = released;
            state.offset = 0;
            state.drained = released;
        }
        state.released = released;
        // Under the lock: recovery must not begin before a record pushed at the skipped-to position.
        self.memory.store_released(released, counted);
        released
    }

    /// Takes no more records: whoever comes to the lock after this finds the lane full.
    pub(super) fn close(&self) {
        self.state.lock().room = 0;
    }

    pub(super) fn has_more(&self, drained: u64) -> bool {
        self.state.lock().head != drained
    }

    /// Whether a push has asked for the writer since the last drain.
    pub(super) fn is_pressed(&self) -> bool {
        self.state.lock().pressed
    }

    pub(super) fn head(&self) -> u64 {
        self.state.lock().head
    }

    pub(super) fn recorded(&self) -> u64 {
        self.state.lock().recorded
    }

    pub(super) fn used(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.head - state.released, self.bytes)
    }
}
