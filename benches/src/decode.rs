//! Points into a draft: names looked up, values and times checked, columns
//! encoded. What the parser does before is not in it.
//!
//! The good shape is one device that sends in order. The others make the batch
//! sort, or enter a name for every point.

use std::fmt;
use std::hint::black_box;

use systole_engine::{Batch, Draft, Registry, Sequence};
use systole_storage::frame::{Header, Stamp};

use crate::Size;
use crate::checksum::Checksum;
use crate::fleet::{Fleet, HEART_RATE, HRV, POINTS, Request, SPO2, STEPS, draft};

/// What bodies look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One metric of one device, in order: encoded as it stands.
    InOrder,
    /// Four metrics in turns: brought into groups.
    FourMetrics,
    /// One metric, the newest first: sorted by time.
    NewestFirst,
    /// A gateway's: each point is another user's, so a name and a group a point.
    UserAPoint,
}

impl Shape {
    /// All of them, the good one first.
    pub const ALL: [Shape; 4] = [Shape::InOrder, Shape::FourMetrics, Shape::NewestFirst, Shape::UserAPoint];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Shape::InOrder => "in_order",
            Shape::FourMetrics => "four_metrics",
            Shape::NewestFirst => "newest_first",
            Shape::UserAPoint => "user_a_point",
        }
    }
}

/// Requests as a parser leaves them, and what decodes them.
#[derive(Debug)]
pub struct Bodies {
    shape: Shape,
    registry: Registry,
    batch: Batch,
    requests: Vec<Request>,
}

/// Bodies of 500 points in this shape.
#[must_use]
pub fn bodies(shape: Shape, size: Size) -> Bodies {
    let users = size.of(4, 50);
    let one = Fleet { users, windows: 4, points: POINTS, signals: &[HEART_RATE], step_s: 5 };
    let requests = match shape {
        Shape::InOrder => one.requests().collect(),
        Shape::FourMetrics => Fleet { signals: &[HEART_RATE, HRV, SPO2, STEPS], ..one }.requests().collect(),
        Shape::NewestFirst => one.requests().map(Request::newest_first).collect(),
        Shape::UserAPoint => one.requests().map(|request| request.of_users(0..POINTS)).collect(),
    };
    Bodies { shape, registry: Registry::builtin(), batch: Batch::new(), requests }
}

impl Bodies {
    /// Points of all bodies.
    #[must_use]
    pub fn samples(&self) -> u64 {
        self.requests.iter().map(|request| request.len() as u64).sum()
    }

    /// Decodes every body once. This is what is timed.
    pub fn decode(&mut self) {
        self.each(|draft| {
            black_box(draft.frame_bytes());
        });
    }

    /// What comes out.
    pub fn outcome(&mut self) -> Decoded {
        let (mut bytes, mut frames, mut checksum) = (0, 0, Checksum::default());
        self.each(|draft| {
            bytes += draft.frame_bytes() as u64;
            frames += 1;
            checksum.add(frame_checksum(draft));
        });
        let samples = self.samples();
        Decoded { shape: self.shape, samples, frames, bytes, checksum: checksum.finish() }
    }

    fn each(&mut self, mut take: impl FnMut(Draft)) {
        for request in &self.requests {
            take(draft(&mut self.batch, &self.registry, request));
        }
    }
}

/// The checksum the draft's frame has at a fixed place in the order.
fn frame_checksum(draft: Draft) -> u64 {
    let stamp = Stamp { sequence: Sequence(1), synced: Sequence::ZERO, ordering: 1, committed_at: 0 };
    let header = Header::read(&draft.seal(stamp)).expect("a sealed frame has a header");
    u64::from(header.crc32c)
}

/// What decoding made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Of what.
    pub shape: Shape,
    /// Points taken.
    pub samples: u64,
    /// Drafts made.
    pub frames: u64,
    /// Bytes their frames take in the journal.
    pub bytes: u64,
    /// Over the frames.
    pub checksum: u64,
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decoded { shape, samples, frames, bytes, checksum } = self;
        let each = *bytes as f64 / *samples as f64;
        let name = shape.name();
        write!(
            f,
            "decode/{name}: {samples} samples in {frames} frames, {each:.2} bytes a sample, checksum {checksum:#018x}"
        )
    }
}
