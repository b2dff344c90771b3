use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;
use systole_engine::batch::{Batch, Fault, FaultKind, Point};
use systole_engine::registry::Registry;
use systole_engine::timestamp::{Instant, parse_rfc3339, write_rfc3339};
use systole_storage::frame::{self, Draft, SamplesFrame, Sequence, Stamp};

/// 2026-06-30T07:45:00Z.
pub(crate) const NOW_MS: i64 = 1_782_805_500_000;

/// A point that is right in every respect.
pub(crate) fn point() -> Point<'static> {
    Point {
        user: "u_123",
        metric: "heart_rate",
        value: 62.0,
        unit: "bpm",
        recorded_at: "2026-06-30T07:45:00Z",
        source: "garmin",
        device: None,
        zone_offset: None,
        ended_at: None,
        is_daily_total: None,
    }
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    batch.clear(NOW_MS);
    batch
}

fn push(point: &Point<'_>) -> Result<(), Fault> {
    batch().push(&Registry::builtin(), point)
}

/// The frame of points that are all right.
fn frame_of(points: &[Point<'_>]) -> SamplesFrame {
    let (registry, mut batch) = (Registry::builtin(), batch());
    for point in points {
        batch.push(&registry, point).unwrap_or_else(|fault| panic!("{point:?}: {fault}"));
    }
    assert_eq!(batch.len(), points.len());
    sealed(batch.encode("acme", false))
}

fn bytes_of(draft: Draft) -> Vec<u8> {
    draft.seal(Stamp { sequence: Sequence(1), synced: Sequence::ZERO, ordering: 1, committed_at: 0 })
}

fn sealed(draft: Draft) -> SamplesFrame {
    let bytes = bytes_of(draft);
    frame::verify(&bytes).expect("the frame is whole");
    SamplesFrame::parse(bytes.into()).expect("the frame is whole")
}

fn text_of(ms: i64) -> String {
    let mut text = Vec::new();
    write_rfc3339(ms, &mut text);
    String::from_utf8(text).expect("timestamps are ASCII")
}

#[test]
fn a_broken_rule_is_answered_with_field_kind_and_advice() {
    use FaultKind as Kind;
    let good = point();
    let long_user = "u".repeat(129);
    let user_fault =
        |shown: &str| format!("user_id is {shown}, allowed are 1 to 128 characters of A-Z a-z 0-9 . _ : @ -");
    let long_user_fault = user_fault(&format!("\"{}\" (cut)", "u".repeat(48)));
    let (empty_user_fault, spaced_user_fault) = (user_fault("\"\""), user_fault("\"u 1\""));
    for (point, field, kind, message) in [
        (
            Point { metric: "hart_rate", ..good },
            "metric",
            Kind::UnknownMetric,
            "unknown metric \"hart_rate\"; nearest: heart_rate",
        ),
        (
            Point { metric: "xyzzy", ..good },
            "metric",
            Kind::UnknownMetric,
            "unknown metric \"xyzzy\"; GET /api/v1/metrics lists all",
        ),
        (
            Point { unit: "BPM", ..good },
            "unit",
            Kind::UnknownUnit,
            "unknown unit \"BPM\" for heart_rate; accepted: bpm, /min, count/min, beats/min, beats/minute, \
             {beats}/min, 1/min, Hz",
        ),
        (
            Point { metric: "spo2", value: 0.97, unit: "fraction", ..good },
            "unit",
            Kind::UnknownUnit,
            "unknown unit \"fraction\" for spo2; accepted: %, percent, pct",
        ),
        (
            Point { value: 512.0, ..good },
            "value",
            Kind::OutOfRange,
            "heart_rate is 512 bpm, allowed are 1 to 300 bpm",
        ),
        (
            Point { value: 0.5, unit: "/min", ..good },
            "value",
            Kind::OutOfRange,
            "heart_rate is 0.5 bpm, allowed are 1 to 300 bpm",
        ),
        (
            Point { metric: "HEART_RATE", value: 10.0, unit: "Hz", ..good },
            "value",
            Kind::OutOfRange,
            "heart_rate is 600 bpm (sent as 10 Hz), allowed are 1 to 300 bpm",
        ),
        (
            Point { value: 1e308, unit: "Hz", ..good },
            "value",
            Kind::OutOfRange,
            "heart_rate is inf bpm (sent as 1e308 Hz), allowed are 1 to 300 bpm",
        ),
        (
            Point { value: f64::NAN, ..good },
            "value",
            Kind::NotFinite,
            "heart_rate is NaN, expected a finite number",
        ),
        (
            Point { value: f64::NEG_INFINITY, ..good },
            "value",
            Kind::NotFinite,
            "heart_rate is -inf, expected a finite number",
        ),
        (
            Point { recorded_at: "yesterday", ..good },
            "recorded_at",
            Kind::TimestampMalformed,
            "recorded_at \"yesterday\" is not RFC 3339, expected the form 2026-06-30T07:45:00Z or \
             2026-06-30T07:45:00+02:00",
        ),
        (
            Point { recorded_at: "2026-02-30T07:45:00Z", ..good },
            "recorded_at",
            Kind::TimestampMalformed,
            "recorded_at \"2026-02-30T07:45:00Z\" is no time that exists between the years 0000 and 9999",
        ),
        (
            Point { recorded_at: "2026-06-30T07:45:00", ..good },
            "recorded_at",
            Kind::TimestampOffsetMissing,
            "recorded_at \"2026-06-30T07:45:00\" has no offset from UTC: append Z for UTC, or the local \
             offset, for example +02:00",
        ),
        (
            Point { recorded_at: "1899-12-31T23:59:59.999Z", ..good },
            "recorded_at",
            Kind::TimestampOutOfRange,
            "recorded_at is 1899-12-31T23:59:59.999Z, allowed are 1900-01-01T00:00:00Z to \
             2026-07-01T07:45:00Z, 24 h ahead of the server's clock",
        ),
        (
            Point { recorded_at: "2026-07-01T09:45:00.001+02:00", ..good },
            "recorded_at",
            Kind::TimestampOutOfRange,
            "recorded_at is 2026-07-01T07:45:00.001Z, allowed are 1900-01-01T00:00:00Z to \
             2026-07-01T07:45:00Z, 24 h ahead of the server's clock",
        ),
        (Point { user: "", ..good }, "user_id", Kind::UserIdMalformed, &empty_user_fault),
        (Point { user: "u 1", ..good }, "user_id", Kind::UserIdMalformed, &spaced_user_fault),
        (Point { user: &long_user, ..good }, "user_id", Kind::UserIdMalformed, &long_user_fault),
        (
            Point { source: "", ..good },
            "source",
            Kind::SourceMalformed,
            "source is \"\", allowed are 1 to 64 printable characters",
        ),
        (
            Point { source: "gar\nmin", ..good },
            "source",
            Kind::SourceMalformed,
            "source is \"gar\\nmin\", allowed are 1 to 64 printable characters",
        ),
        (
            Point { device: Some(""), ..good },
            "source_device_id",
            Kind::DeviceMalformed,
            "source_device_id is \"\", allowed are 1 to 128 printable characters",
        ),
        (
            Point { zone_offset: Some("Europe/Berlin"), ..good },
            "zone_offset",
            Kind::ZoneOffsetMalformed,
            "zone_offset is \"Europe/Berlin\", expected the form +02:00, from -23:59 to +23:59",
        ),
        (
            Point { ended_at: Some("2026-06-30T08:00:00"), ..good },
            "ended_at",
            Kind::EndedAtMalformed,
            "ended_at \"2026-06-30T08:00:00\" has no offset from UTC: append Z for UTC, or the local offset, \
             for example +02:00",
        ),
        (
            Point { ended_at: Some("2026-06-30T08:00:00+02:00"), ..good },
            "ended_at",
            Kind::EndedBeforeRecorded,
            "ended_at is 2026-06-30T06:00:00Z, before recorded_at, 2026-06-30T07:45:00Z",
        ),
    ] {
        let fault = push(&point).expect_err(message);
        assert_eq!((fault.field, fault.kind, fault.message.as_str()), (field, kind, message));
    }
}

#[test]
fn the_last_of_each_limit_is_accepted_and_the_next_is_not() {
    let good = point();
    let text = |character: &str, count: usize| character.repeat(count);
    let (users, sources, devices) = ([128, 129], [64, 65], [128, 129]);
    for (which, accepted) in [(0, true), (1, false)] {
        assert_eq!(push(&Point { user: &text("u", users[which]), ..good }).is_ok(), accepted);
        for character in ["s", "é", "⌚", "😀"] {
            let source = text(character, sources[which]);
            assert_eq!(push(&Point { source: &source, ..good }).is_ok(), accepted, "{source}");
            let device = text(character, devices[which]);
            assert_eq!(push(&Point { device: Some(&device), ..good }).is_ok(), accepted, "{device}");
        }
    }
    for (value, accepted) in [(1.0, true), (300.0, true), (0.999_999, false), (300.000_001, false)] {
        assert_eq!(push(&Point { value, ..good }).is_ok(), accepted, "{value}");
    }
    for (recorded_at, accepted) in [
        ("1900-01-01T00:00:00Z", true),
        ("1899-12-31T23:59:59.9999Z", false),
        ("2026-07-01T07:45:00Z", true),
        ("2026-07-01T07:45:00.0009Z", true),
        ("2026-07-01T07:45:00.001Z", false),
    ] {
        assert_eq!(push(&Point { recorded_at, ..good }).is_ok(), accepted, "{recorded_at}");
    }
    for (ended_at, accepted) in [("2026-06-30T07:45:00Z", true), ("2026-06-30T07:44:59.999Z", false)] {
        assert_eq!(push(&Point { ended_at: Some(ended_at), ..good }).is_ok(), accepted, "{ended_at}");
    }
}

#[test]
fn user_ids_are_made_of_the_listed_characters() {
    for byte in 0..128_u8 {
        let user = char::from(byte).to_string();
        let allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@-".contains(&user);
        assert_eq!(push(&Point { user: &user, ..point() }).is_ok(), allowed, "{user:?}");
    }
    assert!(push(&Point { user: "ü", ..point() }).is_err());
}

#[test]
fn the_sent_zone_counts_before_that_of_the_time() {
    for (recorded_at, zone_offset, zone) in [
        ("2026-06-30T07:45:00Z", None, None),
        ("2026-06-30T07:45:00-00:00", None, None),
        ("2026-06-30T07:45:00+00:00", None, Some(0)),
        ("2026-06-30T07:45:00+05:30", None, Some(330)),
        ("2026-06-30T07:45:00+05:30", Some("-08:00"), Some(-480)),
        ("2026-06-30T07:45:00Z", Some("+02:00"), Some(120)),
        ("2026-06-30T07:45:00Z", Some("+00:00"), Some(0)),
        ("2026-06-30T07:45:00Z", Some("-00:00"), None),
        ("2026-06-30T07:45:00+05:30", Some("-00:00"), Some(330)),
    ] {
        let frame = frame_of(&[Point { recorded_at, zone_offset, ..point() }]);
        assert_eq!(frame.zone(0), zone, "{recorded_at} {zone_offset:?}");
    }
}

#[test]
fn names_are_stored_canonical_and_values_converted() {
    let good = point();
    let frame = frame_of(&[
        Point { metric: "HEART_RATE", value: 1.0, unit: "Hz", device: Some("watch"), ..good },
        Point { recorded_at: "2026-06-30T07:45:01Z", device: Some("watch"), ..good },
        Point { metric: "body_temperature", value: 98.6, unit: "°F", ..good },
    ]);
    let groups: Vec<_> = frame
        .groups()
        .map(|group| (group.user, group.metric, group.unit, group.source, group.device, group.rows()))
        .collect();
    assert_eq!(
        groups,
        [
            ("u_123", "heart_rate", "bpm", "garmin", Some("watch"), 0..2),
            ("u_123", "body_temperature", "°C", "garmin", None, 2..3),
        ]
    );
    let values: Vec<f64> = (0..3).map(|row| frame.value(row)).collect();
    assert_eq!(values, [60.0, 62.0, 98.6 * 0.555_555_555_555_555_6 - 17.777_777_777_777_78]);
    assert_eq!(frame.org(), "acme");
}

#[test]
fn of_equal_keys_the_last_pushed_stays() {
    let good = point();
    let frame = frame_of(&[
        Point { value: 70.0, zone_offset: Some("+02:00"), ..good },
        Point { metric: "spo2", unit: "%", value: 97.0, ..good },
        Point { recorded_at: "2026-06-30T07:44:00Z", value: 71.0, ..good },
        Point { recorded_at: "2026-06-30T09:45:00+02:00", value: 72.0, is_daily_total: Some(false), ..good },
        Point { metric: "HEART_RATE", value: 73.0, ..good },
        Point { device: Some("other"), value: 74.0, ..good },
    ]);
    let rows: Vec<_> = (0..frame.sample_count())
        .map(|row| (frame.recorded_at(row), frame.value(row), frame.zone(row), frame.is_daily_total(row)))
        .collect();
    assert_eq!(
        rows,
        [
            (NOW_MS - 60_000, 71.0, None, None),
            (NOW_MS, 73.0, None, None),
            (NOW_MS, 74.0, None, None),
            (NOW_MS, 97.0, None, None),
        ]
    );
    let counts: Vec<_> = frame.groups().map(|group| (group.metric, group.device, group.count)).collect();
    assert_eq!(counts, [("heart_rate", None, 2), ("heart_rate", Some("other"), 1), ("spo2", None, 1)]);
}

#[test]
fn a_group_in_any_order_rises_and_keeps_the_last_of_each_time() {
    let times: Vec<String> = (0..600_i64).map(|index| text_of(NOW_MS - index * 7 % 50 * 1000)).collect();
    let values = 1..=300;
    let points: Vec<Point<'_>> = times
        .iter()
        .zip(values.clone().chain(values))
        .map(|(recorded_at, value)| Point { recorded_at, value: f64::from(value), ..point() })
        .collect();
    let frame = frame_of(&points);
    let mut expected = BTreeMap::new();
    for point in &points {
        let instant = parse_rfc3339(point.recorded_at).expect("the time was written here");
        expected.insert(instant.ms, point.value);
    }
    let rows: Vec<_> =
        (0..frame.sample_count()).map(|row| (frame.recorded_at(row), frame.value(row))).collect();
    assert_eq!(rows.len(), 50);
    assert_eq!(rows, expected.into_iter().collect::<Vec<_>>());
}

#[test]
fn a_column_that_no_sample_uses_takes_no_space() {
    let good = point();
    let zone = Point { zone_offset: Some("+02:00"), ..good };
    let bytes = |points: &[Point<'_>]| frame_of(points).byte_len();
    let plain = bytes(&[good]);
    for (point, column_bytes) in [
        (zone, 8),
        (Point { ended_at: Some("2026-06-30T07:46:00Z"), ..good }, 8),
        (Point { is_daily_total: Some(false), ..good }, 8),
        (Point { ended_at: Some("2026-06-30T07:46:00Z"), is_daily_total: Some(true), ..zone }, 24),
    ] {
        assert_eq!(bytes(&[point]), plain + column_bytes, "{point:?}");
    }
    assert_eq!(bytes(&[zone, good]), plain);
}

#[test]
fn a_refused_point_leaves_no_trace() {
    let (registry, mut batch) = (Registry::builtin(), batch());
    let good = point();
    batch.push(&registry, &good).expect("the point is valid");
    let other = Point { user: "other", device: Some("other"), metric: "steps", unit: "steps", ..good };
    for refused in [
        Point { value: 0.0, ..good },
        Point { value: -1.0, ..other },
        Point { recorded_at: "later", ..other },
        Point { ended_at: Some("2026-06-30T07:44:00Z"), ..other },
        Point { source: "", ..other },
    ] {
        batch.push(&registry, &refused).expect_err("the point is invalid");
        assert_eq!(batch.len(), 1);
    }
    let later = Point { recorded_at: "2026-06-30T07:46:00Z", ..good };
    batch.push(&registry, &later).expect("the point is valid");
    let bytes = bytes_of(batch.encode("acme", false));
    let mut clean = Batch::new();
    clean.clear(NOW_MS);
    for point in [good, later] {
        clean.push(&registry, &point).expect("the point is valid");
    }
    assert_eq!(bytes, bytes_of(clean.encode("acme", false)));
}

#[test]
fn the_fault_of_a_point_does_not_depend_on_the_points_before() {
    let (registry, mut batch) = (Registry::builtin(), batch());
    let bad = Point { value: 0.0, recorded_at: "later", zone_offset: Some("x"), ..point() };
    let alone = batch.push(&registry, &bad).expect_err("the point is invalid");
    batch.push(&registry, &point()).expect("the point is valid");
    assert_eq!(batch.push(&registry, &bad), Err(alone));
}

#[test]
fn only_the_first_unknown_metrics_are_compared_and_a_repeated_one_is_answered_alike() {
    let (registry, mut batch) = (Registry::builtin(), batch());
    let mut message = |metric: &str| {
        batch.push(&registry, &Point { metric, ..point() }).expect_err("the metric is unknown").message
    };
    for _ in 0..100 {
        assert_eq!(message("hart_rate"), "unknown metric \"hart_rate\"; nearest: heart_rate");
    }
    for index in 0..100 {
        message(&format!("nonsense{index}"));
    }
    assert_eq!(message("hart_rate"), "unknown metric \"hart_rate\"; GET /api/v1/metrics lists all");
    batch.clear(NOW_MS);
    let fault = batch.push(&registry, &Point { metric: "hart_rate", ..point() });
    assert!(fault.is_err_and(|fault| fault.message.contains("nearest: heart_rate")));
}

#[test]
fn the_mark_of_history_reaches_the_frame() {
    let (registry, mut batch) = (Registry::builtin(), batch());
    batch.push(&registry, &point()).expect("the point is valid");
    for backfill in [false, true] {
        assert_eq!(sealed(batch.encode("acme", backfill)).header().is_backfill(), backfill);
    }
}

#[test]
#[should_panic(expected = "an empty batch has no frame")]
fn an_empty_batch_is_not_encoded() {
    let _ = batch().encode("acme", false);
}

/// A point that owns its texts.
#[derive(Clone, Debug)]
struct Sent {
    user: String,
    metric: &'static str,
    unit: &'static str,
    value: f64,
    recorded_at: String,
    source: String,
    device: Option<String>,
    zone_offset: Option<&'static str>,
    ended_at: Option<String>,
    is_daily_total: Option<bool>,
}

impl Sent {
    fn point(&self) -> Point<'_> {
        Point {
            user: &self.user,
            metric: self.metric,
            value: self.value,
            unit: self.unit,
            recorded_at: &self.recorded_at,
            source: &self.source,
            device: self.device.as_deref(),
            zone_offset: self.zone_offset,
            ended_at: self.ended_at.as_deref(),
            is_daily_total: self.is_daily_total,
        }
    }
}

/// Value, zone, end and daily total of a sample.
type Cells = (u64, Option<i16>, Option<i64>, Option<bool>);
/// User, metric, unit, source and device of a group.
type Names = (String, String, String, String, Option<String>);
/// What a frame should hold: its groups, and their rows by time.
type Model = BTreeMap<Names, BTreeMap<i64, Cells>>;

/// Metric and unit as sent, key and unit as stored, and the factor between.
/// The last two are refused.
const NAMED: [(&str, &str, &str, &str, f64); 7] = [
    ("heart_rate", "bpm", "heart_rate", "bpm", 1.0),
    ("HEART_RATE", "bpm", "heart_rate", "bpm", 1.0),
    ("heart_rate", "Hz", "heart_rate", "bpm", 60.0),
    ("steps", "count", "steps", "steps", 1.0),
    ("STEP_COUNT", "steps", "steps", "steps", 1.0),
    ("heart_rate", "kg", "", "", 1.0),
    ("hart_rate", "bpm", "", "", 1.0),
];

/// Few names and times, so that keys collide; about one point in four is refused.
fn sent() -> impl Strategy<Value = Sent> {
    let one_of = |often: &[&'static str], rarely: &[&'static str]| {
        let (often, rarely) = (often.to_vec(), rarely.to_vec());
        prop_oneof![15 => prop::sample::select(often), 1 => prop::sample::select(rarely)]
    };
    let names = (
        one_of(&["a", "b"], &["u:1", "no user"]),
        prop_oneof![15 => prop::sample::select(&NAMED[..5]), 1 => prop::sample::select(&NAMED[5..])],
        one_of(&["garmin"], &["ab", ""]),
        prop::option::weighted(0.3, one_of(&["a"], &["b", "garmin"])),
    );
    let times = (
        -3_i64..3,
        prop_oneof![15 => prop::sample::select(vec![0_i64, 1, 999]), 1 => Just(25 * 3_600_000_i64)],
        prop::sample::select(vec!["Z", "+00:00", "+05:30"]),
        prop::option::weighted(0.2, one_of(&["+02:00"], &["-00:00", "02:00"])),
        prop::option::weighted(0.2, prop_oneof![15 => 0_i64..10, 1 => Just(-1_i64)]),
    );
    let value = prop_oneof![
        15 => prop::sample::select(vec![1.0, 1.5, 2.25, 4.75]),
        1 => prop::sample::select(vec![299.0, 1e7, f64::NAN]),
    ];
    (names, times, value, prop::option::weighted(0.2, any::<bool>())).prop_map(
        |(
            (user, (metric, unit, ..), source, device),
            (step, ms, offset, zone_offset, span),
            value,
            daily,
        )| {
            let ms = NOW_MS + step * 1000 + ms;
            let local = ms + if offset == "+05:30" { 330 * 60_000 } else { 0 };
            Sent {
                user: user.to_owned(),
                metric,
                unit,
                value,
                recorded_at: text_of(local).replace('Z', offset),
                source: source.to_owned(),
                device: device.map(str::to_owned),
                zone_offset,
                ended_at: span.map(|span| text_of(ms + span * 1000)),
                is_daily_total: daily,
            }
        },
    )
}

/// Enters a point as the contract says; `false` if it has to be refused.
fn enter(model: &mut Model, sent: &Sent) -> bool {
    let named = NAMED.iter().find(|named| (named.0, named.1) == (sent.metric, sent.unit));
    let &(_, _, key, unit, factor) = named.expect("the metric is one of the list");
    let value = sent.value * factor;
    let highest = if key == "steps" { 1e6 } else { 300.0 };
    let Ok(Instant { ms, offset_minutes }) = parse_rfc3339(&sent.recorded_at) else { return false };
    let ended_at = match &sent.ended_at {
        None => None,
        Some(text) => parse_rfc3339(text).ok().map(|instant| instant.ms),
    };
    if key.is_empty()
        || sent.user == "no user"
        || sent.source.is_empty()
        || value.is_nan()
        || value > highest
        || ms > NOW_MS + 24 * 3_600_000
        || sent.zone_offset == Some("02:00")
        || ended_at.is_some_and(|end| end < ms)
    {
        return false;
    }
    let zone = match sent.zone_offset {
        Some("+02:00") => Some(120),
        _ => offset_minutes,
    };
    let names =
        (sent.user.clone(), key.to_owned(), unit.to_owned(), sent.source.clone(), sent.device.clone());
    let cells = (value.to_bits(), zone, ended_at, sent.is_daily_total);
    model.entry(names).or_default().insert(ms, cells);
    true
}

fn read(frame: &SamplesFrame) -> Model {
    let mut model = Model::new();
    let (mut events, mut last_event) = (std::collections::HashSet::new(), None);
    let mut rows = 0;
    for group in frame.groups() {
        assert_eq!(group.first, rows, "groups follow each other without a gap");
        rows += group.count;
        let times: Vec<i64> = group.rows().map(|row| frame.recorded_at(row)).collect();
        assert!(times.is_sorted_by(|before, after| before < after), "{times:?}");
        assert_eq!((Some(&group.earliest), Some(&group.latest)), (times.first(), times.last()));
        let cells = |row: usize| {
            let value = frame.value(row).to_bits();
            (frame.recorded_at(row), (value, frame.zone(row), frame.ended_at(row), frame.is_daily_total(row)))
        };
        let [user, metric, unit, source] =
            [group.user, group.metric, group.unit, group.source].map(str::to_owned);
        let names = (user, metric, unit, source, group.device.map(str::to_owned));
        let event = (names.0.clone(), names.1.clone(), names.3.clone());
        if last_event.as_ref() != Some(&event) {
            assert!(events.insert(event.clone()), "the groups of an event stand side by side");
            last_event = Some(event);
        }
        let before = model.insert(names, group.rows().map(cells).collect());
        assert_eq!(before, None, "a group stands once in a frame");
    }
    assert_eq!(frame.sample_count(), rows);
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Several requests through one batch, so that nothing of one shows in the
    /// next.
    #[test]
    fn frames_hold_what_a_map_of_the_points_holds(
        requests in prop::collection::vec(prop::collection::vec(sent(), 0..60), 1..4),
    ) {
        static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::builtin);
        let mut batch = Batch::new();
        for request in &requests {
            batch.clear(NOW_MS);
            let (mut model, mut taken) = (Model::new(), 0);
            for sent in request {
                let accepted = enter(&mut model, sent);
                let pushed = batch.push(&REGISTRY, &sent.point());
                prop_assert_eq!(pushed.is_ok(), accepted, "{:?}: {:?}", sent, pushed);
                taken += usize::from(accepted);
            }
            prop_assert_eq!(batch.len(), taken);
            prop_assert_eq!(batch.is_empty(), taken == 0);
            if taken > 0 {
                prop_assert_eq!(&read(&sealed(batch.encode("acme", false))), &model);
                prop_assert_eq!(&read(&sealed(batch.encode("acme", true))), &model);
            }
        }
    }
}
