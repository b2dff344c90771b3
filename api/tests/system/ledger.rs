//! What one writer was told: the oracle of the tests that stop servers.
//!
//! A writer owns two series, of two users and two metrics, and nobody else writes
//! into them. Each of its batches has points of both, in turns, so that half a batch
//! shows. A batch is new seconds, or a correction: the seconds of an earlier batch
//! with other values. Values follow from the batch's pattern, so the ledger keeps a
//! few bytes per batch.
//!
//! A batch whose answer never came is doubtful until the next [`Ledger::check`] sees
//! it whole or not at all; from then on it has to stay that way.

use crate::client::Caller;
use crate::samples::{Sample, Series};

/// Most points of a batch.
const POINTS_MAX: u64 = 60;
/// Of this many batches one is a correction.
const CORRECTION_EVERY: u64 = 5;
/// January 2016 to its 28th, in seconds: room for one series.
const SECONDS_MAX: u32 = 28 * 86_400;

/// SplitMix64: the same numbers for the same seed.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// Points of consecutive seconds.
#[derive(Clone, Copy, Debug)]
struct Batch {
    first: u32,
    count: u32,
    pattern: u64,
}

/// A batch that is to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    batch: Batch,
    /// The acknowledged batch it replaces.
    corrects: Option<usize>,
}

/// What is counted over all batches.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) batches: u64,
    pub(crate) points: u64,
    pub(crate) corrections: u64,
    pub(crate) refused: u64,
    /// Batches without an answer that turned out to be stored, and not to be.
    pub(crate) unanswered_stored: u64,
    pub(crate) unanswered_lost: u64,
}

/// One writer's view of its series.
pub(crate) struct Ledger {
    users: [String; 2],
    random: Random,
    next_second: u32,
    acknowledged: Vec<Batch>,
    /// Every batch that was acknowledged, also those that were corrected since.
    history: Vec<Batch>,
    doubtful: Option<Plan>,
    pub(crate) counts: Counts,
}

const METRICS: [(&str, &str); 2] = [("heart_rate", "bpm"), ("hrv", "ms")];

/// A sample's second and value.
type Row = (u32, f64);

impl Ledger {
    pub(crate) fn new(writer: usize, seed: u64) -> Ledger {
        Ledger {
            users: [format!("writer-{writer}-even"), format!("writer-{writer}-odd")],
            random: Random(seed ^ ((writer as u64) << 32)),
            next_second: 0,
            acknowledged: Vec::new(),
            history: Vec::new(),
            doubtful: None,
            counts: Counts::default(),
        }
    }

    /// The next batch to send.
    pub(crate) fn plan(&mut self) -> Plan {
        assert!(self.doubtful.is_none(), "an unanswered batch must be checked first");
        let pattern = self.random.next();
        if !self.acknowledged.is_empty() && self.random.below(CORRECTION_EVERY) == 0 {
            let index = self.draw_correction();
            let batch = Batch { pattern, ..self.acknowledged[index] };
            return Plan { batch, corrects: Some(index) };
        }
        let count = u32::try_from(1 + self.random.below(POINTS_MAX)).unwrap();
        let batch = Batch { first: self.next_second, count, pattern };
        self.next_second += count;
        assert!(self.next_second <= SECONDS_MAX, "a series has room for {SECONDS_MAX} samples");
        Plan { batch, corrects: None }
    }

    /// The newest batch as often as any other, so that latest values are corrected, too.
    fn draw_correction(&mut self) -> usize {
        let batches = self.acknowledged.len();
        match self.random.below(2) {
            0 => batches - 1,
            _ => usize::try_from(self.random.below(batches as u64)).unwrap(),
        }
    }

    /// The server said that it is durable.
    pub(crate) fn acknowledge(&mut self, plan: Plan) {
        self.counts.batches += 1;
        self.counts.points += u64::from(plan.batch.count);
        self.counts.corrections += u64::from(plan.corrects.is_some());
        self.history.push(plan.batch);
        self.store(plan);
    }

    /// Everything that was ever acknowledged, as (user, metric, time, value).
    pub(crate) fn acknowledged_rows(&self) -> impl Iterator<Item = (&str, &'static str, String, f64)> {
        self.history.iter().flat_map(move |batch| {
            (0..batch.count).map(move |index| {
                let series = series_of(index);
                let time = print_second(batch.first + index);
                (self.users[series].as_str(), METRICS[series].0, time, batch.value(index))
            })
        })
    }

    /// What the series hold at the end, as (user, metric, time, value).
    pub(crate) fn final_rows(&self) -> Vec<(&str, &'static str, String, f64)> {
        let rows = self.expected().into_iter().enumerate();
        rows.flat_map(|(series, rows)| {
            rows.into_iter().map(move |(second, value)| {
                (self.users[series].as_str(), METRICS[series].0, print_second(second), value)
            })
        })
        .collect()
    }

    /// The server said that it is not stored.
    pub(crate) fn refuse(&mut self) {
        self.counts.refused += 1;
    }

    /// The server did not answer.
    pub(crate) fn doubt(&mut self, plan: Plan) {
        self.doubtful = Some(plan);
    }

    fn store(&mut self, plan: Plan) {
        match plan.corrects {
            Some(index) => self.acknowledged[index] = plan.batch,
            None => self.acknowledged.push(plan.batch),
        }
    }

    /// The bulk-ingest body of a batch.
    pub(crate) fn body(&self, plan: Plan) -> Vec<u8> {
        let batch = plan.batch;
        let mut points: Vec<String> = (0..batch.count).map(|index| self.point(batch, index)).collect();
        if batch.pattern.is_multiple_of(2) {
            points.reverse();
        }
        format!("{{\"data_points\":[{}]}}", points.join(",")).into_bytes()
    }

    fn point(&self, batch: Batch, index: u32) -> String {
        let series = series_of(index);
        let (user, (metric, unit)) = (&self.users[series], METRICS[series]);
        let (value, recorded_at) = (batch.value(index), print_second(batch.first + index));
        format!(
            "{{\"metric\":\"{metric}\",\"value\":{value},\"unit\":\"{unit}\",\
             \"recorded_at\":\"{recorded_at}\",\"source\":\"ledger\",\"user_id\":\"{user}\"}}"
        )
    }

    /// Asks for both series and compares: everything acknowledged is there, once,
    /// with its last value, and nothing else; a doubtful batch is whole or not there.
    pub(crate) fn check(&mut self, caller: &Caller, when: &str) {
        let stored = [self.read(caller, 0), self.read(caller, 1)];
        if let Some(plan) = self.doubtful.take() {
            if stored == self.expected() {
                self.counts.unanswered_lost += 1;
            } else {
                self.store(plan);
                self.counts.unanswered_stored += 1;
            }
        }
        for (series, expected) in self.expected().iter().enumerate() {
            let what = format!("{} {when}", self.users[series]);
            assert_same(&stored[series], expected, &what);
            self.check_latest(caller, series, expected.last(), &what);
        }
    }

    fn check_latest(&self, caller: &Caller, series: usize, expected: Option<&Row>, what: &str) {
        let mut latest = caller.latest(&self.users[series]);
        let newest = latest.remove(METRICS[series].0).map(|newest| (newest.recorded_at, newest.value));
        assert_eq!(newest, expected.map(|row| (print_second(row.0), row.1)), "latest of {what}");
        assert!(latest.is_empty(), "{what} has metrics nobody sent: {latest:?}");
    }

    /// A series as the server has it; it must be ascending and without repetitions.
    fn read(&self, caller: &Caller, series: usize) -> Vec<Row> {
        let Series { data_points, .. } = caller.series(&self.users[series], METRICS[series].0);
        let row = |sample: &Sample| (read_second(&sample.recorded_at), sample.value);
        let rows: Vec<Row> = data_points.iter().map(row).collect();
        if let Some(pair) = rows.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
            panic!("{} has {:?} before {:?}", self.users[series], pair[0], pair[1]);
        }
        rows
    }

    fn expected(&self) -> [Vec<Row>; 2] {
        let mut batches: Vec<Batch> = self.acknowledged.clone();
        batches.sort_by_key(|batch| batch.first);
        let mut rows = [Vec::new(), Vec::new()];
        for batch in batches {
            for index in 0..batch.count {
                rows[series_of(index)].push((batch.first + index, batch.value(index)));
            }
        }
        rows
    }
}

fn series_of(index: u32) -> usize {
    usize::from(!index.is_multiple_of(2))
}

impl Batch {
    /// 20 to 269.75 in quarters, which JSON and doubles hold exactly.
    fn value(&self, index: u32) -> f64 {
        let quarters = Random(self.pattern.wrapping_add(u64::from(index))).below(1000);
        20.0 + quarters as f64 / 4.0
    }
}

#[track_caller]
fn assert_same(stored: &[Row], expected: &[Row], what: &str) {
    if stored == expected {
        return;
    }
    let same = stored.iter().zip(expected).take_while(|(a, b)| a == b).count();
    panic!(
        "{what}: {} samples stored, {} expected; the first difference is at {same}: {:?}, not {:?}",
        stored.len(),
        expected.len(),
        stored.get(same),
        expected.get(same),
    );
}

fn print_second(second: u32) -> String {
    let (day, of_day) = (second / 86_400 + 1, second % 86_400);
    format!("2016-01-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

fn read_second(text: &str) -> u32 {
    let number = |at: usize| text[at..at + 2].parse::<u32>().unwrap();
    let second = (number(8) - 1) * 86_400 + number(11) * 3600 + number(14) * 60 + number(17);
    assert_eq!(text, print_second(second), "a time nobody sent");
    second
}
