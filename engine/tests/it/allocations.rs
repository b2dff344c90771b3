//! Pushing points allocates nothing, and what a request took is bounded.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use systole_engine::batch::{Batch, Point};
use systole_engine::registry::Registry;

use crate::batch::{NOW_MS, point};

/// Counts what the current thread allocates, so that tests beside it do not
/// disturb.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(allocations: u64, bytes: i64) {
    // A thread that ends frees memory after its counters are gone.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + allocations));
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get() + bytes));
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

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

fn live_bytes() -> i64 {
    LIVE_BYTES.get()
}

const METRICS: [(&str, &str); 4] =
    [("heart_rate", "bpm"), ("HEART_RATE", "Hz"), ("spo2", "%"), ("body_temperature", "°F")];

/// Times of the points of a request; made beforehand because they allocate.
fn times(points: usize) -> Vec<String> {
    (0..points).map(|index| format!("2026-06-30T{:02}:{:02}:07Z", index / 60 % 7, index % 60)).collect()
}

/// A request whose points take turns among the metrics, with repeated times.
fn push_all(batch: &mut Batch, registry: &Registry, times: &[String]) {
    batch.clear(NOW_MS);
    for (index, recorded_at) in times.iter().enumerate() {
        let (metric, unit) = METRICS[index % METRICS.len()];
        let value = if unit == "Hz" { 1.0 } else { 97.0 };
        let sent = Point { metric, unit, value, recorded_at, ..point() };
        batch.push(registry, &sent).expect("the point is valid");
    }
}

#[test]
fn pushing_after_warm_up_allocates_nothing_and_encoding_the_same_for_any_number_of_points() {
    let registry = Registry::builtin();
    let mut batch = Batch::new();
    let (few, many) = (times(500), times(5000));
    push_all(&mut batch, &registry, &many);
    drop(batch.encode("default", false));

    let pushed = [&few, &many].map(|times| allocations(|| push_all(&mut batch, &registry, times)));
    assert_eq!(pushed, [0, 0]);

    let encoded = [&few, &many].map(|times| {
        push_all(&mut batch, &registry, times);
        allocations(|| drop(batch.encode("default", false)))
    });
    assert_eq!(encoded[0], encoded[1]);
    assert!(encoded[0] <= 12, "{encoded:?}");
}

#[test]
fn lookups_allocate_nothing() {
    let registry = Registry::builtin();
    let looked_up = allocations(|| {
        for metric in registry.metrics() {
            let (_, found) = registry.resolve(&metric.key).expect("the key is known");
            assert!(found.scale(&metric.ucum).is_some());
            assert!(found.scale("no such unit").is_none());
        }
    });
    assert_eq!(looked_up, 0);
}

#[test]
fn memory_of_an_unusually_large_request_is_given_back() {
    const KEPT_BYTES_MAX: i64 = 16 * 1024 * 1024;
    let registry = Registry::builtin();
    let mut batch = Batch::new();
    let times = times(7 * 60);
    let before = live_bytes();
    batch.clear(NOW_MS);
    for user in 0..1000 {
        let user = format!("user-{user}");
        for recorded_at in &times {
            let sent = Point { user: &user, recorded_at, ..point() };
            batch.push(&registry, &sent).expect("the point is valid");
        }
        let again = Point { user: "first", ..point() };
        batch.push(&registry, &again).expect("the point is valid");
    }
    drop(batch.encode("default", false));
    let full = live_bytes() - before;
    batch.clear(NOW_MS);
    let kept = live_bytes() - before;
    assert!(full > KEPT_BYTES_MAX, "{full}");
    assert!(kept < KEPT_BYTES_MAX, "{kept}");
}
