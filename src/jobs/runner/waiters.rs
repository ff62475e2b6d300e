//! Who waits for which durable job, in this process.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use super::super::{cell::Cell, error::JobFailure, id::JobId};

/// What a final job is to who waits: its result as JSON, or why there is none.
pub(in crate::jobs) type Ended = Result<String, JobFailure>;

/// A place for it.
pub(in crate::jobs) type Place = Cell<Ended>;

/// The places, by job. One that nobody holds any more goes in passing.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    places: Mutex<HashMap<JobId, Vec<Weak<Place>>>>,
}

impl Waiters {
    pub(super) fn add(&self, id: JobId) -> Arc<Place> {
        let place = Arc::new(Cell::new(()));
        self.places.lock().entry(id).or_default().push(Arc::downgrade(&place));
        place
    }

    /// Fills the places of a job that is final.
    pub(super) fn tell(&self, id: JobId, ended: &Ended) {
        let mut places = self.places.lock();
        if places.is_empty() {
            return;
        }
        let told = places.remove(&id);
        drop(places);
        for place in told.iter().flatten().filter_map(Weak::upgrade) {
            place.finish(ended.clone());
        }
    }

    /// The jobs that somebody waits for.
    pub(super) fn waited_for(&self) -> Vec<JobId> {
        let mut places = self.places.lock();
        places.retain(|_, places| {
            places.retain(|place| place.strong_count() > 0);
            !places.is_empty()
        });
        places.keys().copied().collect()
    }

    /// Fills all places alike.
    pub(super) fn tell_all(&self, ended: &Ended) {
        let all = std::mem::take(&mut *self.places.lock());
        for place in all.into_values().flatten().filter_map(|place| place.upgrade()) {
            place.finish(ended.clone());
        }
    }
}
