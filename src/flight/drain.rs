//! The writer's side of the crossing: taking records out of the lanes, and giving the space back.

use super::recorder::FlightRecorder;

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
        drain.ends.clear();
        let share = (bytes / self.lanes().len() as u64).max(2 * self.record_bytes_max() as u64);
        drain.is_partial = false;
        let mut cut = cut;
        for (index, lane) in self.lanes().iter().enumerate() {
            let from = drain.positions[index];
            let start = drain.bytes.len();
            let head = lane.copy(from, share, &mut drain.bytes);
            let mut end = from;
            let mut last = None;
            for entry in lane.parse(&drain.bytes[start..], from) {
                if entry.stamp > cut {
                    break;
                }
                end = entry.next;
                last = Some(entry.stamp);
                drain.pieces.push(Piece {
                    stamp: entry.stamp,
                    start: start + entry.body.start,
                    length: entry.body.len(),
                    lane: index,
                    next: entry.next,
                });
            }
            // A lane copied only in part bounds the cut: later records of the others may be caused by its rest.
            if head - from > share {
                drain.is_partial = true;
                cut = last.map_or(cut, |last| cut.min(last));
            }
            drain.ends.push(end);
        }
        drain.trim(cut);
        drain.pieces.sort_by_key(|piece| piece.stamp);
    }

    /// Gives back what a database already has, as its positions say.
    pub(crate) fn release_up_to(&self, stored: &[u64], drain: &mut Drain) {
        drain.positions.resize(self.lanes().len(), 0);
        let stored = stored.iter().copied().chain(std::iter::repeat(0));
        drain.ends = drain.positions.iter().zip(stored).map(|(position, stored)| stored.max(*position)).collect();
        self.release(drain);
    }

    /// Gives the drained space back, after the commit, and lets waiting threads in.
    pub(crate) fn release(&self, drain: &mut Drain) {
        for ((lane, position), end) in self.lanes().iter().zip(&mut drain.positions).zip(&drain.ends) {
            if end != position {
                *position = lane.release(*end);
            }
        }
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
    /// Where this one ended.
    ends: Vec<u64>,
    /// There was more than was taken.
    is_partial: bool,
}

/// One record in a drain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) stamp: u64,
    start: usize,
    length: usize,
    lane: usize,
    next: u64,
}

impl Drain {
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
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

    /// The positions to commit.
    pub(crate) fn ends(&self) -> &[u64] {
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
            self.pieces.truncate(count);
            self.find_ends();
        }
    }

    /// Takes out again what is later than a cut that fell while lanes were read.
    fn trim(&mut self, cut: u64) {
        if self.pieces.iter().all(|piece| piece.stamp <= cut) {
            return;
        }
        self.pieces.retain(|piece| piece.stamp <= cut);
        self.find_ends();
    }

    fn find_ends(&mut self) {
        self.ends.clone_from(&self.positions);
        for piece in &self.pieces {
            self.ends[piece.lane] = piece.next;
        }
    }
}
