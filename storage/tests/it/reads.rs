//! How little of the files a point query reads.

use systole_storage::query::{Order, QueryPool, SeriesQuery};
use tokio::runtime::Runtime;

use super::fixture::{TestStore, heart_rate};

const JUNE_2026: i64 = 1_780_272_000_000;
const USERS: usize = 60;
/// More than a row group holds in all, so that users lie in several.
const SAMPLES: usize = 5000;

fn newest(user: &str, limit: usize) -> SeriesQuery {
    SeriesQuery {
        org: "default".to_owned(),
        user: user.to_owned(),
        metric: "heart_rate".to_owned(),
        source: None,
        start: i64::MIN,
        end: i64::MAX,
        order: Order::Descending,
        limit: Some(limit),
        after: None,
    }
}

#[test]
fn the_newest_500_samples_of_a_user_take_at_most_two_row_groups_a_file() {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for flush in 0..2 {
        for user in 0..USERS {
            let start = JUNE_2026 + flush * SAMPLES as i64 * 1000;
            store.commit(&heart_rate(&format!("u_{user:02}"), start, SAMPLES));
        }
        store.flush();
    }
    let stored: u64 = store.store.snapshot().files.iter().map(|file| file.record.rows).sum();
    assert_eq!(stored, (2 * USERS * SAMPLES) as u64);
    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
    for user in (0..USERS).step_by(7) {
        runtime.block_on(async {
            let mut stream = pool.samples(newest(&format!("u_{user:02}"), 500)).await.unwrap();
            let mut rows = 0;
            while let Some(chunk) = stream.next().await {
                rows += chunk.unwrap().len();
            }
            assert_eq!(rows, 500);
            let reads = stream.reads();
            let row_groups = reads.row_groups();
            assert!(!row_groups.is_empty() && row_groups.iter().all(|count| *count <= 2), "{reads:?}");
            // Of 600,000 rows: the pages of one user.
            assert!(reads.rows() <= 100_000, "{reads:?}");
            assert!(reads.bytes() > 0 && reads.bytes() < 1_000_000, "{reads:?}");
        });
    }
}
