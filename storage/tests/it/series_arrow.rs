//! Arrow streams of series, read by arrow's own reader.

use std::collections::HashMap;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use arrow::ipc::reader::StreamReader;
use systole_storage::query::{
    Aggregation, BucketQuery, Bucketing, Order, QueryPool, Resolution, SeriesArrow, SeriesQuery, Zone,
};
use tokio::runtime::Runtime;

use super::fixture::{TestStore, heart_rate};

const JUNE_2026: i64 = 1_780_272_000_000;

fn query(order: Order) -> SeriesQuery {
    SeriesQuery {
        org: "default".to_owned(),
        user: "u_1".to_owned(),
        metric: "heart_rate".to_owned(),
        source: None,
        start: i64::MIN,
        end: i64::MAX,
        order,
        limit: None,
        after: None,
    }
}

fn read(bytes: &[u8]) -> Vec<RecordBatch> {
    StreamReader::try_new(bytes, None).unwrap().map(Result::unwrap).collect()
}

#[test]
fn samples_read_back_in_the_order_asked_for() {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 20_000));
    store.flush();
    store.commit(&heart_rate("u_1", JUNE_2026 + 20_000_000, 1000));
    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
    let mut times: Vec<i64> = (0..21_000).map(|second| JUNE_2026 + second * 1000).collect();
    for order in [Order::Ascending, Order::Descending] {
        let metadata = HashMap::from([("metric".to_owned(), "heart_rate".to_owned())]);
        let mut arrow = SeriesArrow::samples(metadata.clone());
        let mut bytes = Vec::new();
        arrow.head(&mut bytes).unwrap();
        runtime.block_on(async {
            let mut stream = pool.samples(query(order)).await.unwrap();
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.unwrap();
                // In two pieces, as a slow client would get it.
                let middle = chunk.len() / 3;
                arrow.put_samples(&chunk, 0..middle, &mut bytes).unwrap();
                arrow.put_samples(&chunk, middle..chunk.len(), &mut bytes).unwrap();
            }
        });
        arrow.tail(&mut bytes).unwrap();
        let batches = read(&bytes);
        assert_eq!(batches[0].schema().metadata(), &metadata);
        let names: Vec<_> = batches[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names[..4], ["recorded_at", "value", "source", "device"]);
        let found: Vec<i64> = batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<TimestampMillisecondType>().values().to_vec())
            .collect();
        if order == Order::Descending {
            times.reverse();
        }
        assert_eq!(found, times);
        for batch in &batches {
            assert!(batch.column(2).as_string::<i32>().iter().all(|source| source == Some("garmin")));
            assert_eq!(batch.column(3).null_count(), batch.num_rows());
        }
        let first = batches[0].column(1).as_primitive::<Float64Type>().value(0);
        assert_eq!(first, if order == Order::Ascending { 60.0 } else { 60.0 + f64::from(999 % 40) });
    }
}

#[test]
fn buckets_read_back() {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    store.commit(&heart_rate("u_1", JUNE_2026, 7200));
    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
    let bucketing = Bucketing {
        resolution: Resolution::Seconds(3600),
        zone: Zone::UTC,
        aggregation: Aggregation::Count,
        combine: true,
    };
    let mut arrow = SeriesArrow::buckets(HashMap::new());
    let mut bytes = Vec::new();
    arrow.head(&mut bytes).unwrap();
    runtime.block_on(async {
        let query = BucketQuery { series: query(Order::Ascending), bucketing, after: None };
        let mut stream = pool.buckets(query).await.unwrap();
        while let Some(buckets) = stream.next().await {
            arrow.put_buckets(&buckets.unwrap(), &mut bytes).unwrap();
        }
    });
    arrow.tail(&mut bytes).unwrap();
    let batches = read(&bytes);
    assert_eq!(batches.len(), 1);
    let starts = batches[0].column(0).as_primitive::<TimestampMillisecondType>().values();
    assert_eq!(starts[..], [JUNE_2026, JUNE_2026 + 3_600_000]);
    assert_eq!(batches[0].column(1).as_primitive::<Float64Type>().values()[..], [3600.0, 3600.0]);
    assert_eq!(batches[0].column(2).null_count(), 2);
    assert_eq!(batches[0].column(3).as_primitive::<Int64Type>().values()[..], [3600, 3600]);
}
