//! The lane protocol under a model: a kill at every single step of random histories.
//!
//! The memory counts each store as a step and dies at a chosen one, in the middle of it; so does the database around its
//! commit. Then recovery runs. Nothing whose push had returned may be missing, and nothing may be there twice.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use proptest::prelude::*;

use super::{
    lane::{Lane, Memory},
    parse::{End, sum},
    recover::parse_ring,
};

const KEY: u64 = 0x5EED_CAFE_F00D_D00D;

/// Steps until the kill; everything after it has no effect.
#[derive(Clone, Debug)]
struct Fate(Rc<Cell<usize>>);

enum Outcome {
    Done,
    DiedInside,
    Dead,
}

impl Fate {
    fn step(&self) -> Outcome {
        match self.0.get() {
            0 => Outcome::Dead,
            1 => {
                self.0.set(0);
                Outcome::DiedInside
            }
            left => {
                self.0.set(left - 1);
                Outcome::Done
            }
        }
    }

    fn is_dead(&self) -> bool {
        self.0.get() == 0
    }
}

/// A lane's bytes, which outlive the process.
#[derive(Clone, Debug)]
struct Mortal {
    bytes: Rc<RefCell<Vec<u8>>>,
    released: Rc<Cell<u64>>,
    recorded: Rc<Cell<u64>>,
    fate: Fate,
}

impl Mortal {
    fn new(capacity: usize, fate: Fate) -> Self {
        let bytes = Rc::new(RefCell::new(vec![0; capacity]));
        Self { bytes, released: Rc::default(), recorded: Rc::default(), fate }
    }
}

impl Memory for Mortal {
    fn write(&self, at: usize, bytes: &[u8]) {
        let kept = match self.fate.step() {
            Outcome::Done => bytes.len(),
            Outcome::DiedInside => bytes.len() / 2,
            Outcome::Dead => 0,
        };
        self.bytes.borrow_mut()[at..at + kept].copy_from_slice(&bytes[..kept]);
    }

    fn seal(&self, at: usize, word: u64) {
        // One store of eight bytes happens whole or not at all.
        if let Outcome::Done = self.fate.step() {
            self.bytes.borrow_mut()[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        }
    }

    fn read(&self, at: usize, length: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes.borrow()[at..at + length]);
    }

    fn store_released(&self, position: u64, _: u64) {
        if let Outcome::Done = self.fate.step() {
            self.released.set(position);
        }
    }

    fn store_recorded(&self, counted: u64) {
        if let Outcome::Done = self.fate.step() {
            self.recorded.set(counted);
        }
    }
}

/// What threads and writer do.
#[derive(Clone, Debug)]
enum Act {
    Push {
        bytes: usize,
        urgent: bool,
    },
    /// Drain, commit, release, as the writer's step does.
    Step,
    /// A drain whose transaction fails: it must be drained again.
    FailedStep,
    /// A step during which a thread goes on pushing: the lane is not empty when space is given back, so it does not
    /// skip to its start, and records come to lie across its end.
    BusyStep {
        bytes: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0_usize..120, any::<bool>()).prop_map(|(bytes, urgent)| Act::Push { bytes, urgent }),
        2 => Just(Act::Step),
        1 => Just(Act::FailedStep),
        2 => (0_usize..60).prop_map(|bytes| Act::BusyStep { bytes }),
    ]
}

#[derive(Debug, Default)]
struct Database {
    rows: Vec<u64>,
    position: u64,
}

#[derive(Debug, Default)]
struct History {
    /// Numbers whose push returned before the kill.
    returned: Vec<u64>,
    database: Database,
    steps: usize,
    laps: u64,
    /// Drained records that lay partly at the lane's end and partly at its start.
    across_the_end: usize,
}

fn body(number: u64, bytes: usize) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    // Bytes that look like tags: they must never parse as one.
    body.extend(KEY.to_le_bytes().iter().cycle().take(bytes));
    body
}

fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(*body.first_chunk().expect("a body begins with its number"))
}

/// Lives through `acts` until the step `kill_at`, then recovers.
fn live(acts: &[Act], capacity: usize, kill_at: usize) -> History {
    let fate = Fate(Rc::new(Cell::new(kill_at)));
    let memory = Mortal::new(capacity, fate.clone());
    let lane = Lane::new(memory.clone(), capacity, KEY, capacity / 4, capacity);
    let mut history = History::default();
    let mut drained = 0;
    for (index, act) in acts.iter().enumerate() {
        let push = |bytes, urgent, history: &mut History| {
            let number = index as u64;
            let pushed = {
                let body = body(number, bytes);
                lane.push(&mut lane.lock(), number, (&body, sum(&body)), urgent, true).is_ok()
            };
            if pushed && !fate.is_dead() {
                history.returned.push(number);
            }
        };
        match act {
            Act::Push { bytes, urgent } => push(*bytes, *urgent, &mut history),
            Act::Step | Act::FailedStep | Act::BusyStep { .. } => {
                let mut bytes = Vec::new();
                lane.copy(drained, u64::MAX, &mut bytes);
                let entries: Vec<_> = lane.parse(&bytes, drained, End::Known).collect();
                let end = entries.last().map_or(drained, |entry| entry.next);
                history.across_the_end += entries
                    .iter()
                    .scan(drained, |from, entry| Some((std::mem::replace(from, entry.next), entry.next)))
                    .filter(|(from, next)| from / capacity as u64 != (next - 1) / capacity as u64)
                    .count();
                if let Act::BusyStep { bytes } = act {
                    push(*bytes, false, &mut history);
                }
                if matches!(act, Act::FailedStep) {
                    continue;
                }
                // The commit is atomic: SQLite's promise.
                if let Outcome::Done = fate.step() {
                    history.database.rows.extend(entries.iter().map(|entry| number(&bytes[entry.body.clone()])));
                    history.database.position = end;
                }
                if end != drained {
                    drained = lane.release(end, 0);
                }
            }
        }
        if fate.is_dead() {
            break;
        }
    }
    history.steps = kill_at - fate.0.get();
    history.laps = drained / capacity as u64;

    let from = history.database.position.max(memory.released.get());
    let (records, gaps) = parse_ring(&memory.bytes.borrow(), from, KEY, capacity);
    assert_eq!(gaps, 0, "a death damages nothing");
    history.database.rows.extend(records.iter().map(|left| number(&left.body)));
    // A record is counted when it is there; the death may fall between the two.
    let stored = history.database.rows.len() as u64;
    let recorded = memory.recorded.get();
    assert!(stored == recorded || stored == recorded + 1, "{stored} of {recorded}");
    history
}

fn check(history: &History) {
    let rows = &history.database.rows;
    assert!(rows.windows(2).all(|pair| pair[0] < pair[1]), "doubled or out of order: {rows:?}");
    let missing: Vec<_> = history.returned.iter().filter(|number| !rows.contains(number)).collect();
    assert!(missing.is_empty(), "lost {missing:?} of {:?}", history.returned);
    assert!(rows.len() <= history.returned.len() + 1, "more rows than records: {rows:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_kill_at_any_step_loses_nothing_and_doubles_nothing(
        acts in prop::collection::vec(act(), 1..60),
        capacity in (8_usize..80).prop_map(|words| words * 8),
    ) {
        let whole = live(&acts, capacity, usize::MAX);
        check(&whole);
        for kill_at in 1..=whole.steps {
            check(&live(&acts, capacity, kill_at));
        }
    }
}

#[test]
fn a_history_of_many_laps_has_many_kill_points() {
    let acts: Vec<Act> = (0..200)
        .map(|turn| match turn % 5 {
            4 if turn % 3 == 0 => Act::BusyStep { bytes: turn * 7 % 50 },
            4 if turn % 10 == 9 => Act::FailedStep,
            4 => Act::Step,
            _ => Act::Push { bytes: turn * 13 % 60, urgent: turn % 3 == 0 },
        })
        .collect();
    let whole = live(&acts, 640, usize::MAX);
    check(&whole);
    assert!(whole.steps > 400 && whole.laps > 10, "{} steps, {} laps", whole.steps, whole.laps);
    assert!(whole.returned.len() > 100 && whole.across_the_end > 3, "{} across the end", whole.across_the_end);
    for kill_at in 1..=whole.steps {
        check(&live(&acts, 640, kill_at));
    }
}

#[test]
fn the_last_eighth_is_kept_for_what_is_urgent() {
    let fate = Fate(Rc::new(Cell::new(usize::MAX)));
    let lane = Lane::new(Mortal::new(800, fate), 800, KEY, 200, 800);
    let push = |urgent| lane.push(&mut lane.lock(), 1, (&[0; 16], 0), urgent, true).is_ok();
    let plain = (0..).take_while(|_| push(false)).count();
    let urgent = (0..).take_while(|_| push(true)).count();
    assert_eq!((plain, urgent), (700 / 40, 800 / 40 - 700 / 40));
}
