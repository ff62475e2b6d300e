//! A series of deaths: its random numbers, its directories, and its table of results.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::{self, Write as _},
    path::PathBuf,
};

use tempfile::TempDir;

use super::{
    check::{Findings, check},
    plan::{Death, Plan, Role},
    process::Witness,
};

/// The total number of deaths over all tests; unset, the short form runs.
const KILLS: &str = "L0_FAULTS_KILLS";
const SEED: &str = "L0_FAULTS_SEED";

/// Pseudo-random numbers (splitmix64).
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// A number from 0 to `bound - 1`.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.set(self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15));
        let mut bits = self.0.get();
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }

    pub fn of<'a, T>(&self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }
}

/// The results of one way to die.
#[derive(Debug, Default)]
struct Row {
    deaths: u64,
    findings: Findings,
}

#[derive(Debug)]
pub struct Campaign {
    pub random: Random,
    title: &'static str,
    /// Deaths that the long form asks for.
    wanted: Option<u64>,
    deaths: u64,
    rows: BTreeMap<String, Row>,
    faults: Vec<String>,
}

impl Campaign {
    /// A campaign with this share of the deaths of the long form, in percent.
    pub fn new(title: &'static str, percent: u64) -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
        let seed = number(SEED).unwrap_or(1);
        println!("{title}: {SEED}={seed}");
        let wanted = number(KILLS).map(|kills| kills * percent / 100);
        let random = Random(Cell::new(seed));
        Self { random, title, wanted, deaths: 0, rows: BTreeMap::new(), faults: Vec::new() }
    }

    /// Whether to go on after `done` cases: until `short` cases are done or, in the long form, until all deaths are.
    pub fn goes_on(&self, done: usize, short: usize) -> bool {
        self.faults.len() < 20 && (done < short || self.wanted.is_some_and(|wanted| self.deaths < wanted))
    }

    /// Checks the recovered directory of a case and removes it; keeps it if something is wrong.
    pub fn conclude(&mut self, way: &str, case: Case, children: &[Witness]) {
        let found = check(&case.dir(), children);
        let row = self.rows.entry(way.to_owned()).or_default();
        let deaths = children.iter().filter(|child| child.died()).count() as u64;
        self.deaths += deaths;
        row.deaths += deaths;
        row.findings.acknowledged += found.acknowledged;
        row.findings.stored += found.stored;
        row.findings.shed += found.shed;
        row.findings.lost += found.lost;
        row.findings.doubled += found.doubled;
        if !found.faults.is_empty() {
            let kept = case.base.keep();
            for fault in found.faults {
                self.fault(format!("{way}: {fault}"));
            }
            self.fault(format!("the directory is kept in {}; its children:", kept.display()));
            self.faults.extend(children.iter().map(|child| format!("  {:?}", child.plan)));
        }
    }

    pub fn fault(&mut self, text: String) {
        println!("{}: {text}", self.title);
        self.faults.push(text);
    }

    /// Prints the table. Panics if something was wrong.
    pub fn end(self) {
        println!("{self}");
        assert!(self.faults.is_empty(), "{}:\n{}", self.title, self.faults.join("\n"));
    }
}

impl fmt::Display for Campaign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, way: &str, deaths: u64, sums: [u64; 5]| {
            let [acknowledged, recovered, shed, lost, doubled] = sums;
            writeln!(f, "{way:<52} {deaths:>6} {acknowledged:>12} {recovered:>9} {shed:>8} {lost:>5} {doubled:>7}")
        };
        let mut header = String::new();
        write!(
            header,
            "{:<52} {:>6} {:>12} {:>9} {:>8} {:>5} {:>7}",
            self.title, "deaths", "acknowledged", "recovered", "shed", "lost", "doubled"
        )?;
        writeln!(f, "{header}")?;
        let mut total = [0; 5];
        for (way, Row { deaths, findings: found }) in &self.rows {
            let sums = [found.acknowledged, found.stored, found.shed, found.lost, found.doubled];
            line(f, way, *deaths, sums)?;
            total = std::array::from_fn(|index| total[index] + sums[index]);
        }
        line(f, "total", self.deaths, total)
    }
}

/// A fresh directory and the plans of its children.
#[derive(Debug)]
pub struct Case {
    base: TempDir,
    children: Cell<u32>,
}

impl Case {
    pub fn new() -> Self {
        Self { base: tempfile::tempdir().unwrap(), children: Cell::new(0) }
    }

    pub fn dir(&self) -> PathBuf {
        self.base.path().join("store")
    }

    /// A path beside the store.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// A plan for the next child: threads wait for room, and the writer commits often.
    pub fn plan(&self, role: Role, threads: u32, death: Death) -> Plan {
        let child = self.children.get();
        self.children.set(child + 1);
        Plan {
            dir: self.dir(),
            child,
            role,
            threads,
            death,
            commit_every_ms: 3,
            shared_memory: false,
            blocks: true,
            installs: false,
            max_bytes: 256 << 20,
            gate: None,
            log_points_to: None,
        }
    }
}
