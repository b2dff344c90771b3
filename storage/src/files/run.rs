//! Rows of a journal frame on their way into a file or a batch.

use std::ops::Range;

use super::rows::{Names, Rows};
use crate::frame::{DAILY_FALSE, DAILY_TRUE, DAILY_UNKNOWN, ENDED_NONE, SamplesFrame, ZONE_UNKNOWN};

/// Neighbouring rows of one frame's group: what they share, and where they stand.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// Canonical metric key.
    pub metric: &'a str,
    /// Who wears the device.
    pub user: &'a str,
    /// Canonical unit.
    pub unit: &'a str,
    /// Who made them.
    pub source: &'a str,
    /// Which device.
    pub device: Option<&'a str>,
    /// Holds the rows.
    pub frame: &'a SamplesFrame,
    /// Which rows of the frame.
    pub rows: Range<usize>,
}

impl<'a> Run<'a> {
    pub(super) fn names(&self) -> Names<'a> {
        Names {
            org: self.frame.org(),
            metric: self.metric,
            user: self.user,
            unit: self.unit,
            source: self.source,
            device: self.device,
        }
    }

    /// Appends the numbers of `range`, rows of the frame, to `rows`.
    pub(super) fn copy_numbers(&self, range: Range<usize>, rows: &mut Rows) {
        let (frame, count) = (self.frame, range.len());
        let stamp = frame.header().stamp;
        rows.recorded_at.extend(frame.recorded_at_of(range.clone()));
        rows.value.extend(frame.value_of(range.clone()));
        rows.sequence.extend(std::iter::repeat_n(stamp.sequence.0, count));
        rows.received_at.extend(std::iter::repeat_n(stamp.committed_at.div_euclid(1000), count));
        if frame.has_zones() {
            rows.zone_minutes.extend(range.clone().map(|row| frame.zone(row).unwrap_or(ZONE_UNKNOWN)));
        } else {
            rows.zone_minutes.push_none(count);
        }
        if frame.has_ends() {
            rows.ended_at.extend(range.clone().map(|row| frame.ended_at(row).unwrap_or(ENDED_NONE)));
        } else {
            rows.ended_at.push_none(count);
        }
        if frame.has_daily_totals() {
            rows.is_daily_total.extend(range.map(|row| match frame.is_daily_total(row) {
                Some(true) => DAILY_TRUE,
                Some(false) => DAILY_FALSE,
                None => DAILY_UNKNOWN,
            }));
        } else {
            rows.is_daily_total.push_none(count);
        }
    }
}
