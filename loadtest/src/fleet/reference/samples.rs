//! The samples of a delivery, made one by one.
//!
//! A series numbers its moments from 1970 on; a clock hour holds a range of these
//! numbers, and of them the density keeps those at which `number * density` passes
//! a whole number, counted from a fraction of the series' own. So the kept ones of
//! a range are found without looking at the others.

use std::ops::Range;

use super::classes::{Rhythm, When};
use super::metrics::METRICS;
use super::{
    CORRECTED_ONE_IN, Delivery, Draw, Kind, Person, ReferenceFleet, SECONDS_PER_HOUR, Sample, Stands,
};

/// Numbers of an hour of bursts: half an hour, 5 seconds apart.
const BURST_NUMBERS: u64 = BURST_SECONDS / 5;
const BURST_SECONDS: u64 = 1_800;
const BURST_STEPS: [u64; 4] = [5, 8, 10, 15];

/// The samples of one delivery.
#[derive(Debug)]
pub struct Samples<'a> {
    fleet: &'a ReferenceFleet,
    cursor: SampleCursor,
}

/// Where in a delivery's samples one stands; keeps no hold of the fleet.
#[derive(Debug)]
pub(crate) struct SampleCursor {
    person: Person,
    kind: Kind,
    hours: Range<u64>,
    /// The next rhythm of the hour `hours.start`.
    rhythm: usize,
    series: Series,
}

/// What is left of one series in one hour.
#[derive(Debug)]
struct Series {
    rhythm: usize,
    hour: u64,
    /// Seconds from one moment to the next.
    step: u64,
    /// Unix second of the moment with number `first`.
    origin: u64,
    first: u64,
    kept: Kept,
}

/// The numbers of a range that a density keeps.
#[derive(Debug)]
pub(super) struct Kept {
    /// Whole numbers still to be passed.
    wholes: Range<u64>,
    /// The fraction to count from, of 2^32.
    phase: u64,
    density: u64,
}

impl Kept {
    pub(super) fn new(numbers: Range<u64>, density: u64, phase: u64) -> Self {
        let whole = |number: u64| (number * density + phase) >> 32;
        Self { wholes: whole(numbers.start)..whole(numbers.end), phase, density }
    }
}

impl Iterator for Kept {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let whole = self.wholes.next()? + 1;
        Some(((whole << 32) - self.phase).div_ceil(self.density) - 1)
    }
}

impl<'a> Samples<'a> {
    pub(super) fn new(fleet: &'a ReferenceFleet, delivery: &Delivery) -> Self {
        Self { fleet, cursor: SampleCursor::new(fleet, delivery) }
    }
}

impl SampleCursor {
    pub(crate) fn new(fleet: &ReferenceFleet, delivery: &Delivery) -> Self {
        Self {
            person: fleet.person(delivery.user),
            kind: delivery.kind,
            hours: delivery.hours.clone(),
            rhythm: 0,
            series: Series {
                rhythm: 0,
                hour: 0,
                step: 1,
                origin: 0,
                first: 0,
                kept: Kept { wholes: 0..0, phase: 0, density: 1 },
            },
        }
    }

    /// The next sample; `fleet` is the one that the cursor was made for.
    pub(crate) fn next(&mut self, fleet: &ReferenceFleet) -> Option<Sample> {
        loop {
            while let Some(number) = self.series.kept.next() {
                if let Some(sample) = self.sample(fleet, number) {
                    return Some(sample);
                }
            }
            if !self.advance(fleet) {
                return None;
            }
        }
    }

    /// Goes to the next series with moments in its hour; false at the end.
    fn advance(&mut self, fleet: &ReferenceFleet) -> bool {
        let rhythms = self.person.class.rhythms;
        while !self.hours.is_empty() {
            let (hour, place) = (self.hours.start, self.rhythm);
            self.rhythm += 1;
            if self.rhythm == rhythms.len() {
                (self.rhythm, self.hours.start) = (0, hour + 1);
            }
            if let Some(series) = fleet.series(&self.person, place, &rhythms[place], hour) {
                self.series = series;
                return true;
            }
        }
        false
    }

    fn sample(&self, fleet: &ReferenceFleet, number: u64) -> Option<Sample> {
        let (person, series) = (&self.person, &self.series);
        let rhythm = &person.class.rhythms[series.rhythm];
        let key = (series.rhythm as u64) << 48 | number;
        let corrected = self.kind == Kind::Corrected;
        let draws = || fleet.draw(Draw::CorrectedSample, person.user, key);
        if corrected && !draws().is_multiple_of(CORRECTED_ONE_IN) {
            return None;
        }
        let delay = match rhythm.when {
            When::About(step) => fleet.draw(Draw::Moment, person.user, key) % (step / 4),
            _ => 0,
        };
        let second = series.origin + (number - series.first) * series.step + delay;
        let metric = &METRICS[rhythm.metric];
        let tenths = fleet.value(person, series.rhythm, metric, series.hour, second);
        let tenths = if corrected { metric.shape.corrected(tenths, key) } else { tenths };
        let span_seconds = if metric.stands == Stands::Span { series.step } else { 0 };
        let (user, zone, device) = (person.user, person.zone, rhythm.device);
        Some(Sample { user, metric, device, second, span_seconds, tenths, zone })
    }
}

impl Iterator for Samples<'_> {
    type Item = Sample;

    fn next(&mut self) -> Option<Sample> {
        self.cursor.next(self.fleet)
    }
}

impl ReferenceFleet {
    /// One series in one clock hour; `None` if it has no moments then.
    fn series(&self, person: &Person, place: usize, rhythm: &Rhythm, hour: u64) -> Option<Series> {
        let asleep = person.sleeps_in(hour);
        let draws = self.draw(Draw::Series, person.user, place as u64);
        let start = hour * SECONDS_PER_HOUR;
        let (numbers, step, origin) = match rhythm.when {
            When::Every(step) | When::About(step) => stepped(start, step, draws),
            When::Awake(step) if !asleep => stepped(start, step, draws),
            When::Asleep(step) if asleep => stepped(start, step, draws),
            When::Bursts => {
                let draws = self.draw(Draw::Burst, person.user, hour);
                let step = BURST_STEPS[(draws % 4) as usize];
                let first = hour * BURST_NUMBERS;
                let origin = start + (draws >> 32) % (SECONDS_PER_HOUR - BURST_SECONDS);
                (first..first + BURST_SECONDS / step, step, origin)
            }
            When::Daily if (hour + 1) % 24 == person.waking => {
                let day = hour / 24;
                (day..day + 1, SECONDS_PER_HOUR * 24, start + draws % SECONDS_PER_HOUR)
            }
            When::Awake(_) | When::Asleep(_) | When::Daily => return None,
        };
        let first = numbers.start;
        let kept = Kept::new(numbers, self.density, draws >> 32);
        Some(Series { rhythm: place, hour, step, origin, first, kept })
    }
}

/// Moments a step apart, from a second of the series' own on: their numbers in the
/// hour that begins at `start`, the step, and when the first of them is.
fn stepped(start: u64, step: u64, draws: u64) -> (Range<u64>, u64, u64) {
    let phase = draws % step;
    let number_from = |second: u64| (second - phase).div_ceil(step);
    let numbers = number_from(start)..number_from(start + SECONDS_PER_HOUR);
    let origin = numbers.start * step + phase;
    (numbers, step, origin)
}
