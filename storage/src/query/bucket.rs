//! Samples into buckets, as they stream.
//!
//! Samples come in the order asked for, so a bucket is done once none of the times
//! ahead can lie in it; then it is handed out. Memory is that of the open buckets:
//! one in a named zone, those of about three days with each sample's own offset,
//! times the sources in them, which are bounded by [`SOURCES_OPEN_MAX`].
//!
//! A page ends between buckets. The next one starts reading at the beginning of the
//! bucket that the last one ended in, so a bucket's value does not depend on pages.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::Array;
use datafusion::error::DataFusionError;
use hashbrown::HashMap;

use super::calendar::{Calendar, Found, Span, Zone};
use super::chunk::ChunkColumns;
use super::resolution::Resolution;
use super::{Order, QueryError, SampleChunk};

/// Sources that the open buckets of a query may have together, about 20 MB. A
/// wearer has a handful.
const SOURCES_OPEN_MAX: usize = 100_000;
/// Buckets handed out at once.
const CHUNK_BUCKETS: usize = 1024;

/// How the values of a bucket become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Aggregation {
    /// Their mean, each counting the same.
    Avg,
    /// The lowest.
    Min,
    /// The highest.
    Max,
    /// Their sum.
    Sum,
    /// How many there are.
    Count,
    /// The one recorded last; of several at one time that of the last source and
    /// device in the order of their names.
    Last,
}

/// Which buckets are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Bucketing {
    /// How long a bucket is.
    pub resolution: Resolution,
    /// Whose clock it is aligned to.
    pub zone: Zone,
    /// What is made of its values.
    pub aggregation: Aggregation,
    /// One bucket for all sources instead of one each.
    pub combine: bool,
}

/// A place between buckets: where a page ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketPosition {
    /// [`Bucket::key`].
    pub key: i64,
    /// [`Bucket::source`].
    pub source: Option<String>,
}

/// A bucket with samples in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// What orders it, in milliseconds.
    pub key: i64,
    /// When it starts, milliseconds since 1970.
    pub start: i64,
    /// What its samples come to; `None` if that is beyond a number's range.
    pub value: Option<f64>,
    /// Who made them; `None` for all together.
    pub source: Option<Arc<str>>,
    /// How many there are.
    pub count: u64,
    /// The offset of its oldest sample, where buckets go by each sample's own.
    pub zone_minutes: Option<i16>,
}

impl Bucket {
    /// Its place.
    #[must_use]
    pub fn position(&self) -> BucketPosition {
        BucketPosition { key: self.key, source: self.source.as_deref().map(str::to_owned) }
    }
}

/// Buckets being filled.
#[derive(Debug)]
pub(super) struct Fold {
    calendar: Calendar,
    bucketing: Bucketing,
    order: Order,
    /// The page before ended here.
    after: Option<BucketPosition>,
    /// Buckets that may still be handed out.
    left: Option<usize>,
    /// By key, in the order asked for.
    open: VecDeque<Open>,
    /// Sources in `open`.
    sources_open: usize,
    /// Numbers given to open buckets; 0 is none.
    numbers: u64,
    /// The bucket of the last row, and which rows lie in it too.
    current: Option<Current>,
    /// For each source of the chunk's dictionary: in which open bucket it was met
    /// last, and its place there.
    places: Vec<(u64, usize)>,
    /// Done and not yet handed out.
    done: Vec<Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    same: (i64, i64),
    zone_minutes: Option<i16>,
    /// Its place in `open`.
    at: usize,
}

#[derive(Debug)]
struct Open {
    number: u64,
    span: Span,
    by_source: HashMap<Arc<str>, usize>,
    tallies: Vec<Tally>,
}

impl Fold {
    pub(super) fn new(
        bucketing: Bucketing,
        order: Order,
        after: Option<BucketPosition>,
        limit: Option<usize>,
    ) -> Fold {
        Fold {
            calendar: Calendar { resolution: bucketing.resolution, zone: bucketing.zone },
            bucketing,
            order,
            after,
            left: limit,
            open: VecDeque::new(),
            sources_open: 0,
            numbers: 0,
            current: None,
            places: Vec::new(),
            done: Vec::new(),
        }
    }

    /// The part of a window in which the buckets behind `after` lie.
    pub(super) fn bounds(&self, start: i64, end: i64) -> (i64, i64) {
        match &self.after {
            None => (start, end),
            Some(after) => {
                let span = self.calendar.span(after.key);
                match self.order {
                    Order::Ascending => (start.max(span.from), end),
                    Order::Descending => (start, end.min(span.to)),
                }
            }
        }
    }

    /// Whether as many buckets are done as may be.
    pub(super) fn is_full(&self) -> bool {
        self.left == Some(0)
    }

    /// Whether it is one page of several.
    pub(super) fn is_limited(&self) -> bool {
        self.left.is_some()
    }

    /// Adds samples, which follow those before in the order asked for.
    pub(super) fn add(&mut self, chunk: &SampleChunk) -> Result<(), QueryError> {
        let columns = chunk.columns();
        self.places.clear();
        self.places.resize(if self.bucketing.combine { 1 } else { columns.sources.len() }, (0, 0));
        let mut rows = chunk.rows();
        match self.order {
            Order::Ascending => rows.try_for_each(|row| self.add_row(&columns, row)),
            Order::Descending => rows.rev().try_for_each(|row| self.add_row(&columns, row)),
        }
    }

    /// Nothing follows: every bucket is done.
    pub(super) fn end(&mut self) {
        self.close_until(|_| true);
    }

    /// Buckets that are done, if they are enough to hand out or `all` is wanted.
    pub(super) fn ready(&mut self, all: bool) -> Option<Vec<Bucket>> {
        let ready = self.done.len() >= CHUNK_BUCKETS || (all && !self.done.is_empty());
        ready.then(|| std::mem::take(&mut self.done))
    }

    fn add_row(&mut self, columns: &ChunkColumns<'_>, row: usize) -> Result<(), QueryError> {
        let time = columns.recorded_at[row];
        let zone_minutes = match self.bucketing.zone {
            Zone::Named(_) => None,
            Zone::Recorded => columns.zone_minutes(row),
        };
        let at = match self.current {
            Some(current)
                if (current.same.0..current.same.1).contains(&time)
                    && current.zone_minutes == zone_minutes =>
            {
                current.at
            }
            _ => self.turn_to(time, zone_minutes),
        };
        let key = if self.bucketing.combine { 0 } else { columns.source_key(row) };
        let open = &mut self.open[at];
        let (number, mut place) = self.places[key];
        if number != open.number {
            let source = if self.bucketing.combine { "" } else { columns.sources.value(key) };
            let known = open.tallies.len();
            place = open.place(source);
            self.sources_open += open.tallies.len() - known;
            self.places[key] = (open.number, place);
            if self.sources_open > SOURCES_OPEN_MAX {
                return Err(too_many_sources());
            }
        }
        open.tallies[place].add(columns.value[row], zone_minutes, self.order);
        Ok(())
    }

    /// Closes what is done at `time`, and finds or opens the bucket it lies in.
    fn turn_to(&mut self, time: i64, zone_minutes: Option<i16>) -> usize {
        match self.order {
            Order::Ascending => self.close_until(|span| span.to <= time),
            Order::Descending => self.close_until(|span| span.from > time),
        }
        let Found { span, same } = self.calendar.find(time, zone_minutes);
        let order = self.order;
        let found = self.open.binary_search_by(|open| directed(open.span.key.cmp(&span.key), order));
        let at = found.unwrap_or_else(|at| {
            self.numbers += 1;
            let by_source = HashMap::new();
            self.open.insert(at, Open { number: self.numbers, span, by_source, tallies: Vec::new() });
            at
        });
        self.current = Some(Current { same, zone_minutes, at });
        at
    }

    /// Hands over the first open buckets, as long as they are done.
    fn close_until(&mut self, is_done: impl Fn(&Span) -> bool) {
        while self.open.front().is_some_and(|open| is_done(&open.span)) {
            if let Some(open) = self.open.pop_front() {
                self.close(open);
            }
        }
    }

    fn close(&mut self, open: Open) {
        self.sources_open -= open.tallies.len();
        let mut sources: Vec<(Arc<str>, usize)> = open.by_source.into_iter().collect();
        let order = self.order;
        sources.sort_unstable_by(|a, b| directed(a.0.cmp(&b.0), order));
        for (source, place) in sources {
            let source = (!self.bucketing.combine).then_some(source);
            if self.is_full() || !self.is_behind(open.span.key, source.as_deref()) {
                continue;
            }
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
            let tally = &open.tallies[place];
            self.done.push(Bucket {
                key: open.span.key,
                start: self.calendar.start(open.span.key, tally.zone_minutes),
                value: tally.value(self.bucketing.aggregation),
                source,
                count: tally.count,
                zone_minutes: tally.zone_minutes,
            });
        }
    }

    /// Whether a bucket lies behind the page before.
    fn is_behind(&self, key: i64, source: Option<&str>) -> bool {
        self.after.as_ref().is_none_or(|after| {
            let order = (key, source).cmp(&(after.key, after.source.as_deref()));
            directed(order, self.order) == Ordering::Greater
        })
    }
}

impl Open {
    /// The place of a source's tally.
    fn place(&mut self, source: &str) -> usize {
        if let Some(place) = self.by_source.get(source) {
            return *place;
        }
        self.tallies.push(Tally::default());
        self.by_source.insert(source.into(), self.tallies.len() - 1);
        self.tallies.len() - 1
    }
}

fn directed(order: Ordering, direction: Order) -> Ordering {
    match direction {
        Order::Ascending => order,
        Order::Descending => order.reverse(),
    }
}

fn too_many_sources() -> QueryError {
    let text = format!("the buckets hold more than {SOURCES_OPEN_MAX} sources");
    QueryError::from(DataFusionError::ResourcesExhausted(text))
}

/// What is known of the values of one bucket and source.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    count: u64,
    sum: f64,
    /// What rounding took from the sum: with it both directions give the same.
    lost: f64,
    min: f64,
    max: f64,
    last: f64,
    /// Of the oldest.
    zone_minutes: Option<i16>,
}

impl Tally {
    fn add(&mut self, value: f64, zone_minutes: Option<i16>, order: Order) {
        let first = self.count == 0;
        self.count += 1;
        let sum = self.sum + value;
        self.lost +=
            if self.sum.abs() >= value.abs() { (self.sum - sum) + value } else { (value - sum) + self.sum };
        self.sum = sum;
        if first || value < self.min {
            self.min = value;
        }
        if first || value > self.max {
            self.max = value;
        }
        if first || order == Order::Ascending {
            self.last = value;
        }
        if first || order == Order::Descending {
            self.zone_minutes = zone_minutes;
        }
    }

    fn value(&self, aggregation: Aggregation) -> Option<f64> {
        let sum = self.sum + self.lost;
        let value = match aggregation {
            Aggregation::Avg => sum / self.count as f64,
            Aggregation::Min => self.min,
            Aggregation::Max => self.max,
            Aggregation::Sum => sum,
            Aggregation::Count => self.count as f64,
            Aggregation::Last => self.last,
        };
        value.is_finite().then_some(value)
    }
}
