//! What the series map takes: bytes a series, counted and as allocated, and no
//! allocation for what is known.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use systole_storage::Sequence;
use systole_storage::series::{Newest, SeriesName};

use super::series::TestMap;

/// Counts what the current thread allocates, so that tests beside it do not
/// disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
    static PEAK_BYTES: Cell<i64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(allocations: u64, bytes: i64) {
    // A thread that ends frees memory after its counters are gone.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
    let _ = PEAK_BYTES.try_with(|peak| peak.set(peak.get().max(LIVE_BYTES.try_with(Cell::get).unwrap_or(0))));
}

/// The most bytes that this thread held at once during `run`, beyond what it held before.
pub fn peak_bytes<T>(run: impl FnOnce() -> T) -> (i64, T) {
    let before = LIVE_BYTES.get();
    PEAK_BYTES.set(before);
    let outcome = run();
    (PEAK_BYTES.get() - before, outcome)
}

// SAFETY: every call is handed to the system's allocator unchanged; counting
// neither allocates nor unwinds.
#[expect(unsafe_code, reason = "an allocator that counts cannot be written without it")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(0, -(layout.size() as i64));
        // SAFETY: `pointer` came from the system's allocator, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(1, size as i64 - layout.size() as i64);
        // SAFETY: `pointer` came from the system's allocator, with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// As long as the registry's keys are on the mean.
const METRICS: usize = 20;
const USERS: usize = 25_000;
/// Metrics of which a second sample comes.
const KNOWN: usize = 4;

fn names() -> (Vec<String>, Vec<String>) {
    let metrics = (0..METRICS).map(|metric| format!("metric_number_{metric}")).collect();
    let users = (0..USERS).map(|user| format!("user-{user:08}")).collect();
    (metrics, users)
}

fn put(map: &TestMap, user: &str, metric: &str, at: i64) {
    let name = SeriesName { org: "default", user, metric, source: "garmin", device: Some("venu-3") };
    map.map.widen(&name, at, at + 10);
    let newest = Newest { recorded_at: at + 10, value: 1.0, sequence: Sequence(at.unsigned_abs()) };
    map.map.advance(&name, at, at + 10, newest);
}

#[test]
fn ten_million_series_fit_in_a_gibibyte_and_known_ones_allocate_nothing() {
    let (metrics, users) = names();
    let map = TestMap::new(1 << 30);
    let before = LIVE_BYTES.get();
    for metric in &metrics {
        users.iter().for_each(|user| put(&map, user, metric, 10));
    }
    let allocated = LIVE_BYTES.get() - before;
    let stats = map.map.stats();
    let series = (USERS * METRICS) as i64;
    assert_eq!(stats.series, series as u64);
    assert!(allocated / series < 107, "{} bytes a series", allocated / series);
    assert!(stats.bytes as i64 / series < 107, "{} counted bytes a series", stats.bytes as i64 / series);
    let off = (stats.bytes as f64 - allocated as f64).abs() / allocated as f64;
    assert!(off < 0.05, "{allocated} bytes are allocated, {} are counted", stats.bytes);

    let before = ALLOCATIONS.get();
    let started = Instant::now();
    for metric in &metrics[..KNOWN] {
        users.iter().for_each(|user| put(&map, user, metric, 30));
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
    println!(
        "{} bytes a series allocated, {} counted; {} ns an update",
        allocated / series,
        stats.bytes as i64 / series,
        started.elapsed().as_nanos() / (2 * KNOWN * USERS) as u128,
    );
}
