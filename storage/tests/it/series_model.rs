//! The series map against a plain map: any order of updates, evictions,
//! checkpoints, restarts and erasures gives the answers of the plain one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use systole_storage::Sequence;
use systole_storage::frame::Mark;
use systole_storage::series::{Newest, SeriesName};

use super::series::{TestMap, plain};

const USERS: [&str; 6] = ["u_1", "u_2", "u_3", "u_4", "u_5", "u_6"];
const METRICS: [&str; 3] = ["heart_rate", "steps", "spo2"];

#[derive(Clone, Debug)]
enum Step {
    Put {
        user: usize,
        metric: usize,
        source: usize,
        earliest: i64,
        length: i64,
    },
    Forget {
        user: usize,
    },
    Replace {
        user: usize,
        metric: usize,
        with: Option<i64>,
    },
    Latest {
        user: usize,
    },
    ReadBack {
        user: usize,
    },
    Pages,
    /// With a position this far behind.
    Checkpoint {
        lag: u64,
        rewrite: bool,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let user = || 0..USERS.len();
    let metric = || 0..METRICS.len();
    prop_oneof![
        12 => (user(), metric(), 0..2usize, 0..60i64, 0..5i64).prop_map(
            |(user, metric, source, earliest, length)| Step::Put { user, metric, source, earliest, length }),
        2 => user().prop_map(|user| Step::Forget { user }),
        2 => (user(), metric(), prop::option::of(0..60i64))
            .prop_map(|(user, metric, with)| Step::Replace { user, metric, with }),
        4 => user().prop_map(|user| Step::Latest { user }),
        2 => user().prop_map(|user| Step::ReadBack { user }),
        1 => Just(Step::Pages),
        4 => (0..6u64, prop::bool::weighted(0.2)).prop_map(|(lag, rewrite)| Step::Checkpoint { lag, rewrite }),
        2 => Just(Step::Restart),
    ]
}

#[derive(Default)]
struct Model {
    newest: BTreeMap<(usize, usize), Newest>,
    /// Everything that was committed of a series since its user was forgotten.
    spans: BTreeMap<(usize, usize, usize), Vec<(i64, i64)>>,
    /// What changed something, by sequence.
    log: Vec<Step>,
}

impl Model {
    fn last(&self) -> Sequence {
        Sequence(self.log.len() as u64)
    }

    fn latest(&self, user: usize) -> Vec<(String, i64, f64)> {
        let own = self.newest.range((user, 0)..(user + 1, 0));
        let mut values: Vec<_> = own
            .map(|((_, metric), newest)| (METRICS[*metric].to_owned(), newest.recorded_at, newest.value))
            .collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        values
    }

    fn apply(&mut self, step: &Step) {
        self.log.push(step.clone());
        let sequence = self.last();
        match *step {
            Step::Put { user, metric, source, earliest, length } => {
                let newest = newest_of(earliest + length, sequence);
                let known = self.newest.entry((user, metric)).or_insert(newest);
                if newest.recorded_at >= known.recorded_at {
                    *known = newest;
                }
                self.spans.entry((user, metric, source)).or_default().push((earliest, earliest + length));
            }
            Step::Forget { user } => {
                self.newest.retain(|(of, _), _| *of != user);
                self.spans.retain(|(of, _, _), _| *of != user);
            }
            Step::Replace { user, metric, with } => {
                // Where nothing was, nothing is to be replaced.
                let Some(known) = self.newest.remove(&(user, metric)) else { return };
                if let Some(recorded_at) = with {
                    let replaced = Newest { recorded_at, value: -1.0, sequence: known.sequence };
                    self.newest.insert((user, metric), replaced);
                }
            }
            _ => unreachable!("only what changes something"),
        }
    }
}

fn newest_of(recorded_at: i64, sequence: Sequence) -> Newest {
    Newest { recorded_at, value: sequence.0 as f64, sequence }
}

fn series_name(user: usize, metric: usize, source: usize) -> SeriesName<'static> {
    let (source, device) = [("garmin", None), ("apple", Some("d_1"))][source];
    SeriesName { org: "default", user: USERS[user], metric: METRICS[metric], source, device }
}

/// Does to the map what a step of the log says; the mark, if it has one.
fn play(map: &TestMap, step: &Step, sequence: Sequence, replaced: Option<Option<Newest>>) -> Option<Mark> {
    match *step {
        Step::Put { user, metric, source, earliest, length } => {
            let name = series_name(user, metric, source);
            let mark = map.map.widen(&name, earliest, earliest + length);
            map.map.advance(&name, earliest, earliest + length, newest_of(earliest + length, sequence));
            return Some(mark);
        }
        Step::Forget { user } => map.map.forget("default", USERS[user], sequence),
        Step::Replace { user, metric, .. } => {
            if let Some(newest) = replaced {
                map.replace(USERS[user], METRICS[metric], newest);
            }
        }
        _ => unreachable!("only what changes something"),
    }
    None
}

/// What each step of the log replaced, found by playing the log on a plain map.
fn replay(map: &TestMap, log: &[Step]) {
    let from = map.map.position();
    let mut model = Model::default();
    for step in log {
        let replaced = replaced(&model, step);
        model.apply(step);
        if model.last() > from {
            play(map, step, model.last(), replaced);
        }
    }
}

/// What a step puts in a newest value's place; `None` if there is none to replace.
fn replaced(model: &Model, step: &Step) -> Option<Option<Newest>> {
    let Step::Replace { user, metric, with } = *step else { return None };
    let known = model.newest.get(&(user, metric))?;
    Some(with.map(|recorded_at| Newest { recorded_at, value: -1.0, sequence: known.sequence }))
}

fn run(bytes_max: usize, steps: &[Step]) {
    let mut map = TestMap::new(bytes_max);
    let mut model = Model::default();
    for step in steps {
        match *step {
            Step::Put { user, metric, source, earliest, length } => {
                let known = model.spans.get(&(user, metric, source)).cloned().unwrap_or_default();
                let meets = known.iter().any(|(from, to)| earliest <= *to && earliest + length >= *from);
                model.apply(step);
                let mark = play(&map, step, model.last(), None).unwrap();
                assert!(!meets || mark == Mark::Look, "{step:?} was there and is said to be new");
            }
            Step::Forget { .. } | Step::Replace { .. } => {
                let replaced = replaced(&model, step);
                model.apply(step);
                play(&map, step, model.last(), replaced);
            }
            Step::Latest { user } => {
                assert_eq!(map.latest(USERS[user]), model.latest(user), "{}", USERS[user])
            }
            Step::ReadBack { user } => map.map.read_back("default", USERS[user]).unwrap(),
            Step::Pages => {
                let pages =
                    (0..map.map.pages()).flat_map(|page| map.map.latest_of_page("default", page).unwrap());
                let mut found: Vec<_> = pages.map(|(user, values)| (user, plain(values))).collect();
                found.sort_by(|a, b| a.0.cmp(&b.0));
                let users = (0..USERS.len()).map(|user| (USERS[user].to_owned(), model.latest(user)));
                assert_eq!(found, users.filter(|(_, values)| !values.is_empty()).collect::<Vec<_>>());
            }
            Step::Checkpoint { lag, rewrite } => {
                let position = Sequence(model.last().0.saturating_sub(lag));
                map.map.checkpoint(position, rewrite).unwrap();
            }
            Step::Restart => {
                let disk = map.disk.after_power_loss(model.last().0);
                map = map.reopen(disk);
                replay(&map, &model.log);
            }
        }
    }
    for (user, name) in USERS.iter().enumerate() {
        assert_eq!(map.latest(name), model.latest(user), "{name} at the end");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_steps_gives_the_answers_of_a_plain_map(
        small in any::<bool>(),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        run(if small { 0 } else { 1 << 30 }, &steps);
    }
}
