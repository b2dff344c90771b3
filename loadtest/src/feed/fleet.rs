//! The reference fleet as a [`Source`]: its hours one after the other, each a stage,
//! in bodies of an aggregator: many users, in the order of their arrival.
//!
//! An hour is a stage because a correction must come after what it corrects; what
//! belongs to one hour can be sent in any order.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::{Body, Next, Source};
use crate::fleet::reference::{Delivery, DeliveryCursor, Kind, ReferenceFleet, SampleCursor, push_point};

const SECONDS_PER_HOUR: u64 = 3_600;
/// One point names its user and everything else: 170 to 260 bytes.
const POINT_BYTES: usize = 240;

/// What the fleet's feed sends.
#[derive(Debug)]
pub struct FleetSource {
    fleet: Arc<ReferenceFleet>,
    hours_left: std::ops::Range<u64>,
    deliveries: Option<DeliveryCursor>,
    delivery: Option<(Delivery, SampleCursor)>,
    points_max: u64,
    path: Arc<str>,
    /// Simulated seconds a second; `None` for as fast as the server takes it.
    speed: Option<f64>,
    sent: Arc<FleetSent>,
}

/// Samples handed out so far, by why they came, and the hour they belong to.
#[derive(Debug, Default)]
pub struct FleetSent {
    kinds: [AtomicU64; KINDS.len()],
    hours: AtomicU64,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Live, "live"),
    (Kind::Late, "late"),
    (Kind::Backfill, "backfill"),
    (Kind::Resent, "re-sent"),
    (Kind::Corrected, "corrected"),
];

impl FleetSource {
    /// The fleet's first `hours` hours, in bodies of at most `points_max` points.
    pub fn new(fleet: Arc<ReferenceFleet>, hours: u64, points_max: u64, speed: Option<f64>) -> Self {
        assert!(points_max > 0, "a body has points");
        let start = fleet.start_hour();
        Self {
            deliveries: (hours > 0).then(|| DeliveryCursor::new(&fleet, start)),
            fleet,
            hours_left: start..start + hours,
            delivery: None,
            points_max,
            path: "/api/v1/wearables/bulk-ingest".into(),
            speed,
            sent: Arc::default(),
        }
    }

    /// Counts while the source is read.
    pub fn sent(&self) -> Arc<FleetSent> {
        Arc::clone(&self.sent)
    }

    /// Fills a body; `None` at the end of the hour. Also when it is due.
    fn body(&mut self) -> Option<Body> {
        let mut bytes = Vec::with_capacity(self.points_max as usize * POINT_BYTES);
        bytes.extend(b"{\"data_points\":[");
        let (mut points, mut at_second) = (0, None);
        while points < self.points_max {
            let Some((delivery, samples)) = &mut self.delivery else {
                match self.deliveries.as_mut().and_then(|deliveries| deliveries.next(&self.fleet)) {
                    Some(delivery) => {
                        let samples = SampleCursor::new(&self.fleet, &delivery);
                        self.delivery = Some((delivery, samples));
                        continue;
                    }
                    None => break,
                }
            };
            let Some(sample) = samples.next(&self.fleet) else {
                self.delivery = None;
                continue;
            };
            if points > 0 {
                bytes.push(b',');
            }
            push_point(&mut bytes, &self.fleet, &sample);
            points += 1;
            at_second.get_or_insert(delivery.at_second);
            self.sent.kinds[delivery.kind as usize].fetch_add(1, Ordering::Relaxed);
        }
        bytes.extend(b"]}");
        let due = at_second.zip(self.speed).map(|(second, speed)| {
            let simulated = second.saturating_sub(self.fleet.start_hour() * SECONDS_PER_HOUR);
            Duration::from_secs_f64(simulated as f64 / speed)
        });
        (points > 0).then(|| Body { path: Arc::clone(&self.path), bytes: Bytes::from(bytes), points, due })
    }
}

impl Source for FleetSource {
    fn next(&mut self) -> Next {
        if self.hours_left.is_empty() {
            return Next::End;
        }
        if let Some(body) = self.body() {
            return Next::Body(body);
        }
        self.hours_left.start += 1;
        self.sent.hours.fetch_add(1, Ordering::Relaxed);
        self.deliveries = Some(DeliveryCursor::new(&self.fleet, self.hours_left.start));
        Next::Stage
    }
}

impl FleetSent {
    /// Samples of one kind.
    pub fn of(&self, kind: Kind) -> u64 {
        self.kinds[kind as usize].load(Ordering::Relaxed)
    }

    /// Samples that are not one that came before.
    pub fn distinct(&self) -> u64 {
        self.of(Kind::Live) + self.of(Kind::Late) + self.of(Kind::Backfill)
    }

    /// Hours that are handed out whole.
    pub fn hours(&self) -> u64 {
        self.hours.load(Ordering::Relaxed)
    }

    /// Each kind's name and count.
    pub fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        KINDS.iter().map(|(kind, name)| (*name, self.of(*kind)))
    }
}

impl fmt::Display for FleetSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (name, count)) in self.kinds().enumerate() {
            let comma = if place > 0 { ", " } else { "" };
            write!(f, "{comma}{} {name}", crate::report::grouped(count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::fleet::reference::ReferenceSettings;

    fn source(speed: Option<f64>) -> FleetSource {
        let settings = ReferenceSettings {
            users: 200,
            density: 0.02,
            seed: 3,
            start_hour: 490_968,
            prefix: "f".to_owned(),
        };
        let fleet = ReferenceFleet::new(&settings).expect("good settings");
        FleetSource::new(Arc::new(fleet), 72, 500, speed)
    }

    #[test]
    fn bodies_hold_every_sample_and_hours_are_stages() {
        let mut source = source(None);
        let sent = source.sent();
        let (mut points, mut stages) = (0, 0);
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            match source.next() {
                Next::Body(body) => {
                    let json: serde_json::Value = serde_json::from_slice(&body.bytes).expect("JSON");
                    let all = json["data_points"].as_array().expect("points");
                    assert_eq!(all.len() as u64, body.points);
                    assert!(all.len() <= 500 && body.due.is_none());
                    points += body.points;
                    for point in all {
                        let metric = point["metric"].as_str().expect("a metric").to_owned();
                        *counted.entry(metric).or_default() += 1;
                        assert!(point["user_id"].as_str().expect("a user").starts_with("f-00"));
                    }
                }
                Next::Stage => stages += 1,
                Next::End => break,
            }
        }
        assert_eq!(stages, 72);
        assert_eq!(points, sent.kinds().map(|(_, count)| count).sum::<u64>());
        assert!(sent.of(Kind::Backfill) > 0 && sent.of(Kind::Corrected) > 0);
        assert_eq!(counted.len(), 20);
        assert!(matches!(source.next(), Next::End));
    }

    #[test]
    fn a_paced_body_is_due_when_its_first_delivery_arrives() {
        let mut source = source(Some(3_600.0));
        let mut last = Duration::ZERO;
        loop {
            match source.next() {
                Next::Body(body) => {
                    let due = body.due.expect("a due time");
                    assert!(due >= last && due < Duration::from_secs(72));
                    last = due;
                }
                Next::Stage => {}
                Next::End => break,
            }
        }
        assert!(last > Duration::from_secs(60));
    }
}
