//! Buckets against a plain list: any samples, zone, resolution, order and pages give
//! what a reader of the rules at the top of `calendar.rs` would work out by hand,
//! minute by minute.

use std::collections::BTreeMap;

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, Offset, TimeZone};
use chrono_tz::Tz;
use proptest::prelude::*;
use systole_storage::frame::{Columns, GroupSpec, ZONE_UNKNOWN, encode_samples};
use systole_storage::query::{
    Aggregation, Bucket, BucketQuery, Bucketing, Order, QueryPool, Resolution, SeriesQuery, Zone,
};
use tokio::runtime::Runtime;

use super::fixture::TestStore;

const MINUTE_MS: i64 = 60_000;

/// (time, source, device) to (value, offset in minutes).
type Rows = BTreeMap<(i64, &'static str, Option<&'static str>), (f64, Option<i16>)>;

/// A bucket's key and source.
type BucketKey<'a> = (i64, Option<&'a str>);
/// A row's value and offset.
type Values = Vec<(f64, Option<i16>)>;

/// Times around changes of clocks, and a few far from them.
fn time() -> impl Strategy<Value = i64> {
    let around = |text: &str| DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis();
    let days = [
        around("2026-03-29T01:00:00Z"),
        around("2026-10-25T01:00:00Z"),
        around("2026-11-01T06:00:00Z"),
        around("2026-04-04T15:00:00Z"),
        around("2026-10-03T15:30:00Z"),
    ];
    prop_oneof![
        (prop::sample::select(days.to_vec()), -2000..2000i64, 0..3i64)
            .prop_map(|(day, minute, third)| day + minute * MINUTE_MS + third * 20_000),
        (0..600i64).prop_map(|day| day * 86_400_000),
    ]
}

fn rows() -> impl Strategy<Value = Rows> {
    let key = (
        time(),
        prop::sample::select(vec!["apple", "garmin", "oura"]),
        prop::sample::select(vec![None, Some("d_1"), Some("d_2")]),
    );
    let offset = prop::sample::select(vec![None, Some(0), Some(120), Some(345), Some(-300), Some(840)]);
    prop::collection::btree_map(key, ((-50..50i32).prop_map(f64::from), offset), 1..60)
}

/// Commits rows, each (source, device) as a request of its own, in two parts of which
/// the first is flushed.
fn store_of(dir: &std::path::Path, rows: &Rows) -> TestStore {
    let mut store = TestStore::open(dir);
    let mut groups: BTreeMap<_, Vec<(i64, f64, i16)>> = BTreeMap::new();
    for (&(time, source, device), &(value, offset)) in rows {
        let row = (time, value, offset.unwrap_or(ZONE_UNKNOWN));
        groups.entry((source, device)).or_default().push(row);
    }
    for part in 0..2 {
        for ((source, device), rows) in &groups {
            let middle = rows.len() / 2;
            let rows = if part == 0 { &rows[..middle] } else { &rows[middle..] };
            let times: Vec<i64> = rows.iter().map(|row| row.0).collect();
            let values: Vec<f64> = rows.iter().map(|row| row.1).collect();
            let offsets: Vec<i16> = rows.iter().map(|row| row.2).collect();
            if rows.is_empty() {
                continue;
            }
            let group = GroupSpec {
                user: "u_1",
                metric: "steps",
                unit: "steps",
                source,
                device: *device,
                first: 0,
                count: u32::try_from(rows.len()).unwrap(),
            };
            let columns = Columns {
                recorded_at: &times,
                value: &values,
                zone: Some(&offsets),
                ended_at: None,
                daily: None,
            };
            store.commit_draft(encode_samples("default", false, &[group], columns));
        }
        if part == 0 {
            store.flush();
        }
    }
    store
}

fn wall(zone: Tz, time: i64) -> NaiveDateTime {
    zone.from_utc_datetime(&DateTime::from_timestamp_millis(time).unwrap().naive_utc()).naive_local()
}

/// The first minute at which a zone's clock shows this date or a later one.
fn day_start(zone: Tz, date: NaiveDate) -> i64 {
    let midnight = date.and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_millis();
    let minutes = (0..).map(|minute| midnight - 15 * 60 * MINUTE_MS + minute * MINUTE_MS);
    minutes.into_iter().find(|time| wall(zone, *time).date() >= date).unwrap()
}

/// The last minute at which the clock reached or jumped over a multiple of `every`.
fn clock_start(zone: Tz, every: i64, time: i64) -> i64 {
    let shown = |minute: i64| {
        let utc = DateTime::from_timestamp_millis(minute * MINUTE_MS).unwrap().naive_utc();
        minute + i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()) / 60
    };
    let begins = |minute: i64| {
        let (before, now) = (shown(minute - 1) + 1, shown(minute));
        now % every == 0 || now > before && (before..=now).any(|shown| shown % every == 0)
    };
    let minutes = (0..).map(|back| time.div_euclid(MINUTE_MS) - back);
    minutes.into_iter().find(|minute| begins(*minute)).unwrap() * MINUTE_MS
}

fn first_date(resolution: Resolution, date: NaiveDate) -> NaiveDate {
    match resolution {
        Resolution::Weeks(1) => date - Days::new(u64::from(date.weekday().num_days_from_monday())),
        Resolution::Months(1) => date.with_day(1).unwrap(),
        Resolution::Months(3) => date.with_day(1).unwrap() - Months::new(date.month0() % 3),
        _ => date,
    }
}

/// What orders the bucket of a row.
fn key(bucketing: &Bucketing, time: i64, offset: Option<i16>) -> i64 {
    let offset = i64::from(offset.unwrap_or(0)) * MINUTE_MS;
    match (bucketing.zone, bucketing.resolution) {
        (Zone::Named(zone), Resolution::Seconds(every)) => clock_start(zone, i64::from(every) / 60, time),
        (Zone::Named(zone), dates) => day_start(zone, first_date(dates, wall(zone, time).date())),
        (Zone::Recorded, Resolution::Seconds(every)) => {
            time - (time + offset).rem_euclid(i64::from(every) * 1000)
        }
        (Zone::Recorded, dates) => {
            let date = DateTime::from_timestamp_millis(time + offset).unwrap().date_naive();
            first_date(dates, date).and_hms_opt(0, 0, 0).unwrap().and_utc().timestamp_millis()
        }
    }
}

fn expected(rows: &Rows, query: &BucketQuery) -> Vec<Bucket> {
    let BucketQuery { series, bucketing, .. } = query;
    let mut buckets: BTreeMap<BucketKey<'_>, Values> = BTreeMap::new();
    for (&(time, source, _), &row) in rows {
        let wanted = series.source.as_ref().is_none_or(|wanted| wanted == source);
        if wanted && (series.start..series.end).contains(&time) {
            let source = (!bucketing.combine).then_some(source);
            buckets.entry((key(bucketing, time, row.1), source)).or_default().push(row);
        }
    }
    let of_bucket = |((key, source), rows): (BucketKey<'_>, Values)| {
        let values = rows.iter().map(|row| row.0);
        let sum: f64 = values.clone().sum();
        let zone_minutes = if bucketing.zone == Zone::Recorded { rows[0].1 } else { None };
        let by_date = !matches!(bucketing.resolution, Resolution::Seconds(_));
        let shift = if by_date { i64::from(zone_minutes.unwrap_or(0)) * MINUTE_MS } else { 0 };
        Bucket {
            key,
            start: key - shift,
            value: Some(match bucketing.aggregation {
                Aggregation::Avg => sum / rows.len() as f64,
                Aggregation::Sum => sum,
                Aggregation::Min => values.fold(f64::INFINITY, f64::min),
                Aggregation::Max => values.fold(f64::NEG_INFINITY, f64::max),
                Aggregation::Count => rows.len() as f64,
                Aggregation::Last => rows[rows.len() - 1].0,
            }),
            source: source.map(Into::into),
            count: rows.len() as u64,
            zone_minutes,
        }
    };
    let mut buckets: Vec<Bucket> = buckets.into_iter().map(of_bucket).collect();
    if series.order == Order::Descending {
        buckets.reverse();
    }
    buckets
}

fn ask(runtime: &Runtime, pool: &QueryPool, query: &BucketQuery) -> Vec<Bucket> {
    runtime.block_on(async {
        let mut stream = pool.buckets(query.clone()).await.unwrap();
        let mut buckets = Vec::new();
        while let Some(part) = stream.next().await {
            buckets.extend(part.unwrap());
        }
        buckets
    })
}

fn ask_in_pages(runtime: &Runtime, pool: &QueryPool, query: &BucketQuery, page: usize) -> Vec<Bucket> {
    let mut query = query.clone();
    query.series.limit = Some(page);
    let mut all = Vec::new();
    loop {
        let buckets = ask(runtime, pool, &query);
        assert!(buckets.len() <= page);
        let Some(last) = buckets.last() else {
            return all;
        };
        query.after = Some(last.position());
        all.extend(buckets);
    }
}

fn bucketing() -> impl Strategy<Value = Bucketing> {
    let zones =
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "recorded"];
    let resolutions = ["15m", "1h", "PT2H", "PT6H", "1d", "1w", "P1M", "P3M"];
    let aggregations = [
        Aggregation::Avg,
        Aggregation::Min,
        Aggregation::Max,
        Aggregation::Sum,
        Aggregation::Count,
        Aggregation::Last,
    ];
    let parts = (
        prop::sample::select(zones.to_vec()),
        prop::sample::select(resolutions.to_vec()),
        prop::sample::select(aggregations.to_vec()),
        any::<bool>(),
    );
    parts.prop_map(|(zone, resolution, aggregation, combine)| Bucketing {
        zone: Zone::parse(zone).unwrap(),
        resolution: Resolution::parse(resolution).unwrap(),
        aggregation,
        combine,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn buckets_are_those_of_a_plain_list(
        rows in rows(),
        asked in prop::collection::vec((bucketing(), any::<bool>(), any::<bool>(), any::<bool>()), 12),
        page in 1..5usize,
    ) {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = store_of(dir.path(), &rows);
        let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
        for (bucketing, ascending, one_source, cut) in asked {
            let (start, end) = if cut { (1_774_700_000_000, 1_793_000_000_000) } else { (0, 2_000_000_000_000) };
            let series = SeriesQuery {
                org: "default".to_owned(),
                user: "u_1".to_owned(),
                metric: "steps".to_owned(),
                source: one_source.then(|| "garmin".to_owned()),
                start,
                end,
                order: if ascending { Order::Ascending } else { Order::Descending },
                limit: None,
                after: None,
            };
            let query = BucketQuery { series, bucketing, after: None };
            let wanted = expected(&rows, &query);
            prop_assert_eq!(&ask(&runtime, &pool, &query), &wanted, "{:?}", &query);
            prop_assert_eq!(&ask_in_pages(&runtime, &pool, &query, page), &wanted, "{:?} by {}", &query, page);
        }
    }
}
