//! Deaths of recording processes, deaths of recoveries, and recoveries at the same time.

use std::{collections::BTreeMap, fs::File, time::Duration};

use l0::Recovery;

use super::{
    campaign::{Campaign, Case},
    plan::{Death, Plan, Role, Way},
    points,
    process::{Running, Witness},
};

const THREADS: [u32; 3] = [1, 8, 64];
/// The commit interval of a child whose records stay in the flight file.
const NEVER_MS: u64 = 3_600_000;
/// A cap with which a recovery of some thousand records needs several transactions.
const SMALL: u64 = 16 << 20;

/// Recovers a directory in this process. A second recovery must find nothing.
fn recover(case: &Case, campaign: &mut Campaign) -> Recovery {
    let dir = case.dir();
    if !dir.join("telemetry.db").exists() {
        return Recovery::default();
    }
    match (l0::recover(&dir), l0::recover(&dir)) {
        (Ok(first), Ok(second)) => {
            if second != Recovery::default() || first.unreadable + first.postponed > 0 {
                campaign.fault(format!("the first recovery found {first:?}, the second {second:?}"));
            }
            first
        }
        (first, second) => {
            campaign.fault(format!("recoveries returned {first:?} and {second:?}"));
            Recovery::default()
        }
    }
}

#[test]
fn deaths_at_random_moments_lose_nothing() {
    let mut campaign = Campaign::new("deaths at random moments", 40);
    let mut done = 0;
    let ways: Vec<Option<Way>> = std::iter::once(None).chain(Way::ALL.map(Some)).collect();
    while campaign.goes_on(done, ways.len() * THREADS.len()) {
        let way = ways[done % ways.len()];
        let threads = THREADS[done / ways.len() % THREADS.len()];
        done += 1;
        let case = Case::new();
        let record = 1 + campaign.random.below(6_000);
        let death = way.map_or(Death::ByParent, |way| Death::AtRecord { way, record });
        let plan = Plan {
            commit_every_ms: *campaign.random.of(&[3, 20, NEVER_MS]),
            shared_memory: campaign.random.below(3) == 0,
            blocks: campaign.random.below(4) > 0,
            installs: campaign.random.below(2) == 0,
            ..case.plan(Role::RecordUntilDeath, threads, death)
        };
        let mut child = Running::spawn(plan);
        if way.is_none() {
            child.read(record);
            child.kill();
        }
        let witness = child.wait();
        recover(&case, &mut campaign);
        let way = way.map_or("SIGKILL".to_owned(), |way| format!("{way:?}"));
        campaign.conclude(&format!("{way}, {threads} threads"), case, &[witness]);
    }
    campaign.end();
}

/// A child that is killed with many records in its flight file.
fn killed_child(campaign: &Campaign, case: &Case, threads: u32) -> Witness {
    let plan = Plan {
        commit_every_ms: NEVER_MS,
        shared_memory: campaign.random.below(3) == 0,
        max_bytes: SMALL,
        ..case.plan(Role::RecordUntilDeath, threads, Death::ByParent)
    };
    let mut child = Running::spawn(plan);
    child.read(1_000 + campaign.random.below(6_000));
    child.kill();
    child.wait()
}

/// Scenarios in which a child reaches fail points and may be killed at them.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// Start, records, audits, jobs, a flush, and a shutdown.
    Life,
    /// The same after a process was killed, so that the start recovers.
    Restart,
    /// `l0::recover` after a process was killed.
    Recovery,
}

impl Scenario {
    const ALL: [Self; 3] = [Self::Life, Self::Restart, Self::Recovery];

    /// The children of the scenario, of which the last has this death.
    fn run(self, campaign: &Campaign, case: &Case, threads: u32, death: Death) -> Vec<Witness> {
        let mut children = match self {
            Self::Life => Vec::new(),
            Self::Restart | Self::Recovery => vec![killed_child(campaign, case, threads)],
        };
        let role = match self {
            Self::Life | Self::Restart => Role::RecordAndShutDown { steps: 70 },
            Self::Recovery => Role::Recover,
        };
        let plan = case.plan(role, threads, death);
        children.push(Running::spawn(Plan { log_points_to: Some(case.beside("points")), ..plan }).wait());
        children
    }

    /// How often it reaches each point.
    fn points(self, campaign: &mut Campaign) -> BTreeMap<String, u64> {
        let case = Case::new();
        let children = self.run(campaign, &case, 8, Death::None);
        let points = points::reached(&case.beside("points"));
        recover(&case, campaign);
        campaign.conclude(&format!("{self:?} without a death at a point"), case, &children);
        points
    }
}

#[test]
fn kills_at_every_fail_point_lose_nothing() {
    let mut campaign = Campaign::new("SIGKILL at fail points", 30);
    let mut targets = Vec::new();
    for scenario in Scenario::ALL {
        targets.extend(scenario.points(&mut campaign).into_iter().map(|(name, hits)| (scenario, name, hits)));
    }
    for name in points::in_source() {
        let is_reached = targets.iter().any(|(_, reached, _)| *reached == name);
        if is_reached == points::UNREACHED.iter().any(|(unreached, _)| *unreached == name) {
            campaign.fault(format!("fail point {name}: reached is {is_reached}, the list UNREACHED says otherwise"));
        }
    }
    let mut done = 0;
    while campaign.goes_on(done, targets.len()) {
        let (scenario, name, hits) = &targets[done % targets.len()];
        let lap = done / targets.len();
        let threads = THREADS[(done + lap) % THREADS.len()];
        // The first lap kills at the first hit, which every scenario reaches.
        let hit = if lap == 0 { 1 } else { 1 + campaign.random.below(*hits) };
        done += 1;
        let case = Case::new();
        let children = scenario.run(&campaign, &case, threads, Death::AtPoint { name: name.clone(), hit });
        if hit == 1 && children.iter().any(|child| !child.died()) {
            campaign.fault(format!("{scenario:?} did not die at {name}"));
        }
        recover(&case, &mut campaign);
        campaign.conclude(&format!("{scenario:?}, {name}"), case, &children);
    }
    campaign.end();
}

#[test]
fn recoveries_that_are_killed_are_finished_by_the_next() {
    let mut campaign = Campaign::new("deaths of recoveries", 20);
    let targets: Vec<_> = Scenario::Recovery.points(&mut campaign).into_iter().collect();
    let mut done = 0;
    // The last case of each lap has only random moments.
    while campaign.goes_on(done, targets.len() + 1) {
        let case = Case::new();
        let threads = THREADS[(done + done / (targets.len() + 1)) % THREADS.len()];
        let target = targets.get(done % (targets.len() + 1));
        done += 1;
        let mut children = vec![killed_child(&campaign, &case, threads)];
        for round in 0..3 + campaign.random.below(4) {
            let at_moment = target.is_none() || round > 0 && campaign.random.below(2) == 0;
            let (name, hits) = target.filter(|_| round == 0).unwrap_or_else(|| campaign.random.of(&targets));
            let hit = if round == 0 { 1 } else { 1 + campaign.random.below(*hits) };
            let death = if at_moment { Death::ByParent } else { Death::AtPoint { name: name.clone(), hit } };
            let mut child = Running::spawn(case.plan(Role::Recover, 1, death));
            if at_moment {
                child.read(1);
                child.read_for(Duration::from_micros(campaign.random.below(60_000)));
                child.kill();
            }
            children.push(child.wait());
        }
        recover(&case, &mut campaign);
        let way = target.map_or("random moments".to_owned(), |(name, _)| format!("first at {name}"));
        campaign.conclude(&way, case, &children);
    }
    campaign.end();
}

#[test]
fn recoveries_at_the_same_time_store_everything_once() {
    let mut campaign = Campaign::new("four recoveries at once", 10);
    let points: Vec<_> = Scenario::Recovery.points(&mut campaign).into_iter().collect();
    let mut done = 0;
    while campaign.goes_on(done, 6) {
        let case = Case::new();
        let threads = THREADS[done % THREADS.len()];
        // In every second case one of the recoveries is killed.
        let one_dies = done % 2 == 1;
        done += 1;
        let mut children = vec![killed_child(&campaign, &case, threads)];
        let gate = File::create(case.beside("gate")).unwrap();
        gate.lock().unwrap();
        let running: Vec<_> = (0..4)
            .map(|index| {
                let role = if index == 0 { Role::RecordAndShutDown { steps: 70 } } else { Role::Recover };
                let death = match index {
                    1 if one_dies => Death::AtPoint { name: campaign.random.of(&points).0.clone(), hit: 1 },
                    _ => Death::None,
                };
                let plan = Plan { gate: Some(case.beside("gate")), ..case.plan(role, threads, death) };
                let mut child = Running::spawn(plan);
                child.read(1);
                child
            })
            .collect();
        gate.unlock().unwrap();
        // They run beside each other whatever the order in which the parent reads their frames.
        children.extend(running.into_iter().map(Running::wait));
        let died = children.iter().filter(|child| child.died()).count();
        let runs = recover(&case, &mut campaign).runs;
        let recovered = u64::from(runs) + children.iter().map(Witness::recovered_runs).sum::<u64>();
        if died == 1 && (recovered, runs) != (1, 0) {
            campaign.fault(format!("{recovered} recoveries of one run, {runs} of them after all had ended"));
        }
        campaign.conclude(if one_dies { "one of them is killed" } else { "all of them live" }, case, &children);
    }
    campaign.end();
}
