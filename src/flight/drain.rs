//! The writer's side of the crossing: taking records out of the lanes, and giving the space back.

use super::{header::Reason, parse::End, recorder::FlightRecorder};
use crate::event::Severity;

impl FlightRecorder {
    /// Copies out what was recorded up to `cut`, taken before the call. The causal cut: a record later than `cut` stays,
    /// and so does all that it may have caused; what caused a drained record was published before its stamp was taken,
    /// so it is drained, too.
    ///
    /// About `bytes` at most, so that a transaction stays short; but always more than the largest record of each lane.
    pub(crate) fn drain(&self, cut: u64, bytes: u64, drain: &mut Drain) {
        drain.bytes.clear();
        drain.pieces.clear();
        drain.positions.resize(self.lanes().len(), 0);
        drain.counted.resize(self.lanes().len(), 0);
        drain.tails.clear();
        drain.ends.clear();
        drain.heads.clear();
        let share = (bytes / self.lanes().len() as u64).max(2 * self.record_bytes_max() as u64);
        (drain.is_partial, drain.is_shortened) = (false, false);
        let mut cut = cut;
        for (index, lane) in self.lanes().iter().enumerate() {
            let from = drain.positions[index];
            let start = drain.bytes.len();
            let (head, recorded) = lane.copy(from, share, &mut drain.bytes);
            let is_partial = head - from > share;
            let end = if is_partial { End::Partial } else { End::Known };
            let mut parse = lane.parse(&drain.bytes[start..], from, end);
            let mut is_cut = false;
            let (mut last, mut counted) = (None, drain.counted[index]);
            for entry in parse.by_ref() {
                if entry.stamp > cut {
                    is_cut = true;
                    break;
                }
                last = Some(entry.stamp);
                counted += u64::from(entry.is_counted);
                drain.pieces.push(Piece {
                    stamp: entry.stamp,
                    start: start + entry.body.start,
                    length: entry.body.len(),
                    lane: index,
                    next: entry.next,
                    counted,
                });
            }
            // A lane copied only in part bounds the cut: later records of the others may be caused by its rest.
            if is_partial {
                drain.is_partial = true;
                cut = last.map_or(cut, |last| cut.min(last));
            }
            // Something has overwritten records in memory. How many is known where the lane ends.
            let tail = (!is_cut && parse.gaps() > 0).then(|| Tail { lane: index, position: parse.position() });
            drain.tails.extend(tail);
            drain.heads.push((head, recorded));
        }
        drain.find_ends();
        drain.trim(cut);
        drain.pieces.sort_by_key(|piece| piece.stamp);
    }

    /// Gives back what a database already has, as its positions say.
    pub(crate) fn release_up_to(&self, stored: &[(u64, u64)], drain: &mut Drain) {
        drain.positions.resize(self.lanes().len(), 0);
        drain.counted.resize(self.lanes().len(), 0);
        let stored = stored.iter().copied().chain(std::iter::repeat((0, 0)));
        let here = drain.positions.iter().copied().zip(drain.counted.iter().copied());
        drain.ends = here.zip(stored).map(|(here, stored)| here.max(stored)).collect();
        drain.heads.clear();
        drain.tails.clear();
        self.release(drain);
    }

    /// Gives the drained space back, after the commit, and lets waiting threads in.
    pub(crate) fn release(&self, drain: &mut Drain) {
        for (index, (position, counted)) in drain.ends.iter().enumerate() {
            let from = &mut drain.positions[index];
            if position == from {
                continue;
            }
            let head = drain.heads.get(index).filter(|(head, _)| head == position);
            let recorded = head.map_or(*counted, |(_, recorded)| *recorded);
            // Records that were counted when they were pushed, and are not there any more.
            self.count_shed(Reason::Damaged, Severity::Info, recorded.saturating_sub(*counted));
            *from = self.lanes()[index].release(*position, recorded);
            drain.counted[index] = recorded;
        }
        drain.tails.clear();
        self.announce_room();
    }
}

/// What one step took out of the lanes; its buffers are used again.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// Where each lane's next drain begins.
    positions: Vec<u64>,
    /// How many counted records were before that, in each lane.
    counted: Vec<u64>,
    /// Where this one ended, and how many counted records were before that.
    ends: Vec<(u64, u64)>,
    /// Lanes in which bytes were no records.
    tails: Vec<Tail>,
    /// Where each lane ended when it was copied, and how many counted records it had taken.
    heads: Vec<(u64, u64)>,
    /// There was more than was taken.
    is_partial: bool,
    /// Records at the ends of lanes were left out again.
    is_shortened: bool,
}

/// Behind the last record of a lane that has damaged bytes.
#[derive(Clone, Copy, Debug)]
struct Tail {
    lane: usize,
    position: u64,
}

/// One record in a drain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) stamp: u64,
    start: usize,
    length: usize,
    lane: usize,
    next: u64,
    /// Counted records of the lane up to and with this one.
    counted: u64,
}

impl Drain {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.tails.is_empty()
    }

    /// Whether the next drain is due at once: there was more than this one took.
    pub(crate) fn is_partial(&self) -> bool {
        self.is_partial
    }

    pub(crate) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The records by time.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces.iter().map(|piece| (piece.stamp, &self.bytes[piece.start..piece.start + piece.length]))
    }

    /// The positions to commit, with how many counted records were before each.
    pub(crate) fn ends(&self) -> &[(u64, u64)] {
        &self.ends
    }

    /// Where the next drain begins.
    pub(crate) fn positions(&self) -> &[u64] {
        &self.positions
    }

    /// The bytes of the records, without what surrounds them.
    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.length as u64).sum()
    }

    /// Leaves all but the first so many for the next drain.
    pub(crate) fn keep(&mut self, count: usize) {
        if count < self.pieces.len() {
            self.is_partial = true;
            self.is_shortened = true;
            self.pieces.truncate(count);
            self.find_ends();
        }
    }

    /// Takes out again what is later than a cut that fell while lanes were read.
    fn trim(&mut self, cut: u64) {
        if self.pieces.iter().all(|piece| piece.stamp <= cut) {
            return;
        }
        self.is_shortened = true;
        self.pieces.retain(|piece| piece.stamp <= cut);
        self.find_ends();
    }

    fn find_ends(&mut self) {
        self.ends.clear();
        self.ends.extend(self.positions.iter().copied().zip(self.counted.iter().copied()));
        for piece in &self.pieces {
            let end = &mut self.ends[piece.lane];
            *end = (piece.next, piece.counted).max(*end);
        }
        // What is behind the last record of a lane goes with it, or alone.
        for tail in &self.tails {
            let end = &mut self.ends[tail.lane];
            let is_last = self.pieces.iter().filter(|piece| piece.lane == tail.lane).all(|piece| piece.next <= end.0);
            if is_last && !self.is_shortened {
                end.0 = tail.position.max(end.0);
            }
        }
    }
}
