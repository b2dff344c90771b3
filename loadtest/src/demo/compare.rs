//! Sent, stored and delivered, side by side: three tallies per series, and the
//! table that says whether they are one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;
use tokio::task::JoinSet;

use super::{DemoError, ask, shaped};
use crate::client::Server;
use crate::fleet::Fleet;
use crate::receiver::ReceiverCounts;
use crate::report::{Report, grouped};
use crate::tally::{SeriesName, SeriesTally, Tallies};

/// Answers that are read at one time; more would only queue at a small server.
const READERS: usize = 4;
/// Differing series that are named.
const EXAMPLES_MAX: usize = 5;

/// Which `series_type` an event of `standard` prints for each of the fleet's
/// metrics, and back.
pub(super) struct Vocabulary {
    /// Our key by what is printed.
    keys: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Registry {
    data: Vec<Metric>,
}

#[derive(Deserialize)]
struct Metric {
    key: String,
    ow_code: Option<String>,
}

/// The answer of `/metric`, as far as it is compared.
#[derive(Deserialize)]
pub(super) struct Points {
    pub(super) data_points: Vec<Point>,
}

#[derive(Deserialize)]
pub(super) struct Point {
    value: f64,
}

impl Vocabulary {
    pub(super) async fn ask(server: &Server, fleet: &Fleet) -> Result<Self, DemoError> {
        let path = "/api/v1/metrics";
        let body = ask(&mut server.connect().await?, path).await?;
        let Registry { data } = shaped(path, &body)?;
        let wanted: BTreeSet<&str> = fleet.metrics().collect();
        let ours = data.into_iter().filter(|metric| wanted.contains(metric.key.as_str()));
        let pair = |metric: Metric| (metric.ow_code.unwrap_or_else(|| metric.key.clone()), metric.key);
        Ok(Self { keys: ours.map(pair).collect() })
    }

    /// Puts our keys for what was printed; what is unknown stays as it is.
    pub(super) fn translate(&self, delivered: Tallies) -> Tallies {
        let ours = |printed: String| self.keys.get(&printed).cloned().unwrap_or(printed);
        let pairs = delivered.into_iter();
        pairs.map(|(name, tally)| (SeriesName { metric: ours(name.metric), ..name }, tally)).collect()
    }
}

/// The three sides.
#[derive(Debug)]
pub(super) struct Comparison {
    sent: Tallies,
    in_doubt: Tallies,
    delivered: Tallies,
    /// Of the users below.
    stored: Tallies,
    /// Users of whom samples were sent.
    users: usize,
    /// Those who are read back.
    read: BTreeSet<String>,
}

impl Comparison {
    /// What was sent, before anything is read back; of so many samples that an even
    /// part of the users has at most `samples_max`.
    pub(super) fn new(sent: Tallies, in_doubt: Tallies, samples_max: u64) -> Self {
        let users: BTreeSet<&String> = sent.keys().chain(in_doubt.keys()).map(|name| &name.user_id).collect();
        let samples = total(&sent).count + total(&in_doubt).count;
        let step = samples.div_ceil(samples_max.max(1)).max(1) as usize;
        let read = users.iter().step_by(step).map(|user| (*user).clone()).collect();
        let users = users.len();
        Self { sent, in_doubt, delivered: Tallies::new(), stored: Tallies::new(), users, read }
    }

    /// `500 users`, or `100 of 500 users`.
    pub(super) fn reads(&self) -> String {
        match (self.read.len() as u64, self.users as u64) {
            (read, users) if read == users => format!("{} users", grouped(users)),
            (read, users) => format!("{} of {} users", grouped(read), grouped(users)),
        }
    }

    /// Asks the server for every metric of the users that are read back.
    pub(super) async fn read_back(&mut self, server: &Server, fleet: &Arc<Fleet>) -> Result<(), DemoError> {
        let users: Arc<Vec<String>> = Arc::new(self.read.iter().cloned().collect());
        let next = Arc::new(AtomicUsize::new(0));
        let mut readers = JoinSet::new();
        for _ in 0..READERS {
            let (server, fleet) = (server.clone(), Arc::clone(fleet));
            readers.spawn(read(server, fleet, Arc::clone(&users), Arc::clone(&next)));
        }
        while let Some(ended) = readers.join_next().await {
            let part = ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            self.stored.extend(part?);
        }
        Ok(())
    }

    /// What was delivered up to now.
    pub(super) fn deliver(&mut self, delivered: Tallies) {
        self.delivered = delivered;
    }

    pub(super) fn agrees(&self) -> bool {
        self.series().iter().all(|name| self.verdict(name))
    }

    /// Every series of any side.
    fn series(&self) -> BTreeSet<&SeriesName> {
        [&self.sent, &self.in_doubt, &self.stored, &self.delivered]
            .into_iter()
            .flat_map(Tallies::keys)
            .collect()
    }

    /// Whether the sides of one series agree.
    fn verdict(&self, name: &SeriesName) -> bool {
        let of = |side: &Tallies| side.get(name).copied().unwrap_or_default();
        let (sent, in_doubt, delivered) = (of(&self.sent), of(&self.in_doubt), of(&self.delivered));
        let likely = if in_doubt.count == 0 {
            delivered == sent
        } else {
            (sent.count..=sent.count + in_doubt.count).contains(&delivered.count)
        };
        let stored = !self.read.contains(&name.user_id) || of(&self.stored) == delivered;
        likely && stored
    }
}

/// One reader: takes the next user until there is none.
async fn read(
    server: Server,
    fleet: Arc<Fleet>,
    users: Arc<Vec<String>>,
    next: Arc<AtomicUsize>,
) -> Result<Tallies, DemoError> {
    let mut connection = server.connect().await?;
    let mut stored = Tallies::new();
    let window = fleet.span().query();
    while let Some(user_id) = users.get(next.fetch_add(1, Ordering::Relaxed)) {
        for metric in fleet.metrics() {
            let path = format!("/api/v1/wearables/metric/{metric}?{window}&user_id={user_id}");
            let body = ask(&mut connection, &path).await?;
            let points: Points = shaped(&path, &body)?;
            let mut tally = SeriesTally::default();
            points.data_points.iter().for_each(|point| tally.add(point.value));
            if tally.count > 0 {
                stored.insert(SeriesName { user_id: user_id.clone(), metric: metric.to_owned() }, tally);
            }
        }
    }
    Ok(stored)
}

/// What came of a demo; prints as the table.
#[derive(Debug, Clone)]
pub struct DemoOutcome {
    /// Whether what was acknowledged was stored and delivered, series by series,
    /// and no event came unsigned or altered.
    pub agrees: bool,
    /// Samples acknowledged.
    pub sent: u64,
    /// Samples read back, of the users that were.
    pub stored: u64,
    /// Samples delivered, each once.
    pub delivered: u64,
    /// Samples sent whose answer was lost: they may be stored and delivered.
    pub in_doubt: u64,
    /// Series compared.
    pub series: u64,
    /// Series that differ.
    pub series_differing: u64,
    /// Events delivered, each once.
    pub events: u64,
    /// Events delivered again.
    pub duplicates: u64,
    /// Attempts at an event that brought other bytes than its first.
    pub bodies_changed: u64,
    /// Requests to the receiver that were refused.
    pub refused: u64,
    /// Events that named another number of samples than they had.
    pub sample_counts_wrong: u64,
    /// The rows of the table.
    rows: Vec<Row>,
    /// `None` if every user was read back.
    everybody: Option<Row>,
    /// `500 users`, or `100 of 500 users`.
    reads: String,
    /// The first series that differ.
    examples: Vec<String>,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    sent: u64,
    stored: Option<u64>,
    delivered: u64,
    differing: u64,
}

impl DemoOutcome {
    pub(super) fn new(report: &Report, comparison: Comparison, counts: ReceiverCounts) -> Self {
        let of_read = |tallies: &Tallies| {
            let of_read = tallies.iter().filter(|(name, _)| comparison.read.contains(&name.user_id));
            of_read.map(|(name, tally)| (name.clone(), *tally)).collect::<Tallies>()
        };
        let series = comparison.series();
        let differing: Vec<&SeriesName> =
            series.iter().copied().filter(|name| !comparison.verdict(name)).collect();
        let examples = differing.iter().take(EXAMPLES_MAX).map(|name| comparison.example(name)).collect();
        let (sent, delivered) = (total(&comparison.sent).count, total(&comparison.delivered).count);
        let partial = comparison.read.len() < comparison.users;
        let intact = counts.refused() == 0
            && counts.bodies_changed == 0
            && counts.sample_counts_wrong == 0
            && counts.unreadable == 0;
        Self {
            agrees: sent > 0 && report.is_sound() && differing.is_empty() && intact,
            sent,
            stored: total(&comparison.stored).count,
            delivered,
            in_doubt: total(&comparison.in_doubt).count,
            series: series.len() as u64,
            series_differing: differing.len() as u64,
            events: counts.events,
            duplicates: counts.duplicates,
            bodies_changed: counts.bodies_changed,
            refused: counts.refused(),
            sample_counts_wrong: counts.sample_counts_wrong,
            rows: rows(
                [&of_read(&comparison.sent), &comparison.stored, &of_read(&comparison.delivered)],
                &differing,
            ),
            everybody: partial.then(|| Row {
                name: "all users".to_owned(),
                sent,
                stored: None,
                delivered,
                differing: differing.len() as u64,
            }),
            reads: comparison.reads(),
            examples,
        }
    }
}

impl Comparison {
    /// `load-demo-1-0000001 steps: sent 8 (sum 1.5), stored ..`
    fn example(&self, name: &SeriesName) -> String {
        let SeriesName { user_id, metric } = name;
        let of = |side: &Tallies| {
            let tally = side.get(name).copied().unwrap_or_default();
            format!("{} (sum {:.1})", tally.count, tally.sum_millionths as f64 / 1_000_000.0)
        };
        let [sent, stored, delivered] = [&self.sent, &self.stored, &self.delivered].map(of);
        format!("{user_id} {metric}: sent {sent}, stored {stored}, delivered {delivered}")
    }
}

/// One row per metric and one for all of them, of sent, stored and delivered.
fn rows(sides: [&Tallies; 3], differing: &[&SeriesName]) -> Vec<Row> {
    let mut by_metric: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for (place, side) in sides.into_iter().enumerate() {
        for (name, tally) in side {
            by_metric.entry(&name.metric).or_default()[place] += tally.count;
        }
    }
    let row = |name: &str, [sent, stored, delivered]: [u64; 3], differing: usize| Row {
        name: name.to_owned(),
        sent,
        stored: Some(stored),
        delivered,
        differing: differing as u64,
    };
    let of_metric = |metric: &str| differing.iter().filter(|name| name.metric == metric).count();
    let mut rows: Vec<Row> =
        by_metric.iter().map(|(metric, counts)| row(metric, *counts, of_metric(metric))).collect();
    let all = sides.map(|side| total(side).count);
    rows.push(row("all", all, differing.len()));
    rows
}

fn total(tallies: &Tallies) -> SeriesTally {
    let mut total = SeriesTally::default();
    tallies.values().for_each(|tally| total.merge(tally));
    total
}

impl fmt::Display for DemoOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "samples of {}", self.reads)?;
        writeln!(f, "{:<18} {:>14} {:>14} {:>14}", "", "sent", "stored", "delivered")?;
        self.rows.iter().chain(&self.everybody).try_for_each(|row| row.fmt(f))?;
        writeln!(
            f,
            "series    {} compared by count and by sum of values, {} differ",
            grouped(self.series),
            grouped(self.series_differing)
        )?;
        writeln!(
            f,
            "events    {} delivered, {} delivered again, {} with other bytes; {} requests refused",
            grouped(self.events),
            grouped(self.duplicates),
            grouped(self.bodies_changed),
            grouped(self.refused)
        )?;
        for (count, what) in [
            (self.in_doubt, "samples in doubt: their answer was lost, they may be stored and delivered"),
            (self.sample_counts_wrong, "events with a wrong sample_count"),
        ] {
            if count > 0 {
                writeln!(f, "note      {} {what}", grouped(count))?;
            }
        }
        self.examples.iter().try_for_each(|example| writeln!(f, "differs   {example}"))?;
        let verdict = if self.agrees { "sent, stored and delivered agree" } else { "they do not agree" };
        writeln!(f, "outcome   {verdict}")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stored = self.stored.map_or_else(|| "-".to_owned(), grouped);
        let verdict = match self.differing {
            0 => "equal".to_owned(),
            differing => format!("{} series differ", grouped(differing)),
        };
        let (name, sent, delivered) = (&self.name, grouped(self.sent), grouped(self.delivered));
        writeln!(f, "{name:<18} {sent:>14} {stored:>14} {delivered:>14}  {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallies(series: &[(&str, &str, u64, i128)]) -> Tallies {
        let entry = |(user_id, metric, count, sum): &(&str, &str, u64, i128)| {
            let name = SeriesName { user_id: (*user_id).to_owned(), metric: (*metric).to_owned() };
            (name, SeriesTally { count: *count, sum_millionths: *sum })
        };
        series.iter().map(entry).collect()
    }

    fn comparison(sent: &Tallies, in_doubt: &Tallies, stored: &Tallies, delivered: &Tallies) -> Comparison {
        let mut comparison = Comparison::new(sent.clone(), in_doubt.clone(), u64::MAX);
        comparison.stored = stored.clone();
        comparison.deliver(delivered.clone());
        comparison
    }

    #[test]
    fn sides_agree_only_if_every_count_and_sum_is_equal() {
        let good = tallies(&[("u1", "a", 3, 30), ("u2", "b", 1, 5)]);
        let none = Tallies::new();
        assert!(comparison(&good, &none, &good, &good).agrees());
        for other in [
            tallies(&[("u1", "a", 3, 30)]),
            tallies(&[("u1", "a", 2, 30), ("u2", "b", 1, 5)]),
            tallies(&[("u1", "a", 3, 31), ("u2", "b", 1, 5)]),
            tallies(&[("u1", "a", 3, 30), ("u2", "b", 1, 5), ("u2", "c", 1, 5)]),
        ] {
            assert!(!comparison(&other, &none, &good, &good).agrees());
            assert!(!comparison(&good, &none, &other, &good).agrees());
            assert!(!comparison(&good, &none, &good, &other).agrees());
        }
    }

    #[test]
    fn samples_in_doubt_may_be_on_both_sides_or_on_neither() {
        let sent = tallies(&[("u1", "a", 3, 30)]);
        let doubt = tallies(&[("u1", "a", 2, 20)]);
        let with = tallies(&[("u1", "a", 5, 50)]);
        let more = tallies(&[("u1", "a", 6, 50)]);
        assert!(comparison(&sent, &doubt, &sent, &sent).agrees());
        assert!(comparison(&sent, &doubt, &with, &with).agrees());
        assert!(!comparison(&sent, &doubt, &with, &sent).agrees());
        assert!(!comparison(&sent, &doubt, &more, &more).agrees());
    }

    #[test]
    fn an_even_part_of_the_users_is_read_back_when_samples_are_many() {
        let users: Vec<String> = (0..10).map(|n| format!("u{n}")).collect();
        let series: Vec<(&str, &str, u64, i128)> =
            users.iter().map(|user| (user.as_str(), "a", 100, 1)).collect();
        let sent = tallies(&series);
        let read = |samples_max| Comparison::new(sent.clone(), Tallies::new(), samples_max);
        assert_eq!(read(1_000).reads(), "10 users");
        assert_eq!(read(250).reads(), "3 of 10 users");
        let mut part = read(250);
        part.stored = tallies(&[("u0", "a", 100, 1), ("u4", "a", 100, 1), ("u8", "a", 100, 1)]);
        part.deliver(sent.clone());
        assert!(part.agrees(), "{part:?}");
        part.stored.pop_first();
        assert!(!part.agrees());
    }

    #[test]
    fn printed_codes_become_our_keys_again() {
        let keys = BTreeMap::from([("oxygen_saturation".to_owned(), "spo2".to_owned())]);
        let printed = tallies(&[("u1", "oxygen_saturation", 1, 97), ("u1", "steps", 1, 5)]);
        let ours = tallies(&[("u1", "spo2", 1, 97), ("u1", "steps", 1, 5)]);
        assert_eq!(Vocabulary { keys }.translate(printed), ours);
    }
}
