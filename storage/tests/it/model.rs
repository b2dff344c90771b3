//! The store against a plain map: any order of commits, flushes, compactions, erasures
//! and restarts gives the answers of the map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use systole_storage::frame::Erased;
use systole_storage::query::{Order, Position, QueryPool, SampleRow, SeriesQuery};
use tokio::runtime::Runtime;

use super::fixture::{Samples, TestStore, everything_of, range_of};

type Key = (&'static str, String, &'static str, i64, &'static str, Option<&'static str>);
type Model = BTreeMap<Key, f64>;
type Found = Vec<(i64, f64, String, Option<String>)>;

#[derive(Clone, Debug)]
enum Step {
    Commit(Samples),
    Flush,
    CompactSome,
    Compact,
    Restart,
    Erase(&'static str, Erased),
    CarryOut,
}

fn samples() -> impl Strategy<Value = Samples> {
    (
        prop::sample::select(vec!["default", "acme"]),
        prop::sample::select(vec!["u_1", "u_2", "u_3"]),
        prop::sample::select(vec!["heart_rate", "steps"]),
        prop::sample::select(vec!["garmin", "apple"]),
        prop::sample::select(vec![None, Some("d_1"), Some("d_2")]),
        prop::collection::btree_map(time(), -50..50i32, 1..40),
    )
        .prop_map(|(org, user, metric, source, device, rows)| Samples {
            org,
            user: user.to_owned(),
            metric,
            source,
            device,
            rows: rows.into_iter().map(|(time, value)| (time, f64::from(value))).collect(),
        })
}

/// Few enough to meet again, spread over minutes, months and years.
fn time() -> impl Strategy<Value = i64> {
    prop_oneof![0..60i64, (0..24i64).prop_map(|month| month * 2_592_000_000), Just(-2_000_000_000_000)]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => samples().prop_map(Step::Commit),
        6 => Just(Step::Flush),
        2 => Just(Step::CompactSome),
        1 => Just(Step::Compact),
        1 => Just(Step::Restart),
        2 => erasure(),
        1 => Just(Step::CarryOut),
    ]
}

/// Of a user, or of a range of one user's samples or of all users'.
fn erasure() -> impl Strategy<Value = Step> {
    let user = || prop::sample::select(vec!["u_1", "u_2", "u_3"]);
    let metric = prop::sample::select(vec!["heart_rate", "steps"]);
    let range = (prop::option::of(user()), prop::option::weighted(0.7, metric), time(), 1..4_000_000_000i64)
        .prop_map(|(user, metric, start, length)| range_of(user, metric, start..start + length));
    let erased = prop_oneof![
        2 => user().prop_map(|user| everything_of(user, false)),
        4 => range,
    ];
    (prop::sample::select(vec!["default", "acme"]), erased).prop_map(|(org, erased)| Step::Erase(org, erased))
}

/// Takes what an order covers out of the model; returns how much that was.
fn forget(model: &mut Model, org: &str, erased: &Erased) -> u64 {
    let before = model.len();
    model.retain(|(of_org, user, metric, time, _, _), _| {
        let covered = match erased {
            Erased::User { user: of, .. } => of == user,
            Erased::Range { user: of, metric: of_metric, start, end } => {
                of.as_ref().is_none_or(|of| of == user)
                    && of_metric.as_deref().is_none_or(|of| of == *metric)
                    && (*start..*end).contains(time)
            }
        };
        *of_org != org || !covered
    });
    (before - model.len()) as u64
}

/// The newest time of each metric.
fn newest(model: &Model, org: &str, user: &str) -> BTreeMap<String, i64> {
    let own = model.keys().filter(|key| key.0 == org && key.1 == user);
    let mut newest = BTreeMap::new();
    for (_, _, metric, time, _, _) in own {
        let known = newest.entry((*metric).to_owned()).or_insert(*time);
        *known = (*known).max(*time);
    }
    newest
}

fn remember(model: &mut Model, samples: &Samples) {
    for &(time, value) in &samples.rows {
        let key = (samples.org, samples.user.clone(), samples.metric, time, samples.source, samples.device);
        model.insert(key, value);
    }
}

fn expected(model: &Model, query: &SeriesQuery) -> Found {
    let mut rows: Found = model
        .iter()
        .filter(|((org, user, metric, time, source, _), _)| {
            *org == query.org
                && *user == query.user
                && *metric == query.metric
                && (query.start..query.end).contains(time)
                && query.source.as_ref().is_none_or(|wanted| wanted == source)
        })
        .map(|((_, _, _, time, source, device), value)| {
            (*time, *value, (*source).to_owned(), device.map(str::to_owned))
        })
        .collect();
    rows.sort_by(|a, b| (a.0, &a.2, &a.3).cmp(&(b.0, &b.2, &b.3)));
    if query.order == Order::Descending {
        rows.reverse();
    }
    rows
}

fn ask(runtime: &Runtime, pool: &QueryPool, query: &SeriesQuery) -> Found {
    runtime.block_on(async {
        let mut stream = pool.samples(query.clone()).await.unwrap();
        let mut rows = Vec::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.unwrap();
            rows.extend((0..chunk.len()).map(|at| owned(&chunk.row(at))));
        }
        rows
    })
}

fn owned(row: &SampleRow<'_>) -> (i64, f64, String, Option<String>) {
    (row.recorded_at, row.value, row.source.to_owned(), row.device.map(str::to_owned))
}

/// The same answer in pages.
fn ask_in_pages(runtime: &Runtime, pool: &QueryPool, query: &SeriesQuery, page: usize) -> Found {
    let mut query = SeriesQuery { limit: Some(page), ..query.clone() };
    let mut all = Found::new();
    loop {
        let rows = ask(runtime, pool, &query);
        assert!(rows.len() <= page);
        let Some(last) = rows.last() else {
            return all;
        };
        query.after = Some(Position { recorded_at: last.0, source: last.2.clone(), device: last.3.clone() });
        all.extend(rows);
    }
}

fn check(runtime: &Runtime, store: &TestStore, model: &Model) {
    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
    for (org, user) in [("default", "u_1"), ("default", "u_2"), ("acme", "u_1")] {
        let latest = runtime.block_on(pool.latest(org, user)).unwrap();
        let latest: BTreeMap<String, i64> =
            latest.into_iter().map(|value| (value.metric, value.recorded_at)).collect();
        assert_eq!(latest, newest(model, org, user), "latest of {org} {user}");
    }
    for (org, user, metric) in
        [("default", "u_1", "heart_rate"), ("acme", "u_1", "heart_rate"), ("default", "u_2", "steps")]
    {
        for order in [Order::Ascending, Order::Descending] {
            for (source, start, end) in [(None, i64::MIN, i64::MAX), (Some("garmin"), 5, 3_000_000_000)] {
                let query = SeriesQuery {
                    org: org.to_owned(),
                    user: user.to_owned(),
                    metric: metric.to_owned(),
                    source: source.map(str::to_owned),
                    start,
                    end,
                    order,
                    limit: None,
                    after: None,
                };
                let rows = expected(model, &query);
                assert_eq!(ask(runtime, &pool, &query), rows, "{query:?}");
                assert_eq!(ask_in_pages(runtime, &pool, &query, 7), rows, "{query:?} in pages");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_order_of_commits_flushes_compactions_erasures_and_restarts_answers_like_a_map(steps in prop::collection::vec(step(), 1..50)) {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut store = TestStore::open(dir.path());
        let mut model = Model::new();
        for step in &steps {
            match step {
                Step::Commit(samples) => {
                    store.commit(samples);
                    remember(&mut model, samples);
                }
                Step::Flush => store.flush(),
                Step::CompactSome => drop(store.compact_some()),
                Step::Compact => drop(store.compact()),
                Step::Restart => {
                    drop(store);
                    store = TestStore::open(dir.path());
                }
                Step::Erase(org, erased) => {
                    let tombstone = store.erase(org, erased.clone());
                    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
                    let metrics = ["heart_rate", "steps"].map(str::to_owned).to_vec();
                    let counted = runtime.block_on(pool.count_erased(&tombstone, metrics)).unwrap();
                    let forgotten = forget(&mut model, org, erased);
                    prop_assert_eq!(counted, forgotten, "{:?}", erased);
                }
                Step::CarryOut => {
                    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
                    store.carry_out(&pool);
                }
            }
        }
        check(&runtime, &store, &model);
        store.flush();
        check(&runtime, &store, &model);
        store.carry_out(&QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap());
        check(&runtime, &store, &model);
        store.compact();
        check(&runtime, &store, &model);
        let files = store.store.catalog().files().unwrap();
        let rows: u64 = files.iter().map(|file| file.rows).sum();
        prop_assert_eq!(rows, model.len() as u64, "nothing is superseded or erased after a compaction");
        prop_assert!(files.iter().all(|file| file.path.starts_with("samples/")));
    }
}

#[test]
fn a_reader_keeps_its_snapshot_while_buffers_turn_into_files() {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for batch in 0..100 {
        store.commit(&super::fixture::heart_rate("u_1", batch * 10_000_000, 1000));
    }
    let pool = QueryPool::start(store.store.clone(), 1, 4, 64 << 20).unwrap();
    // What comes meanwhile lies where the reader has still to read.
    for (order, start, expected) in
        [(Order::Ascending, 5_000_000_000, 100_000), (Order::Descending, -5_000_000_000, 100_010)]
    {
        let query = SeriesQuery {
            org: "default".to_owned(),
            user: "u_1".to_owned(),
            metric: "heart_rate".to_owned(),
            source: None,
            start: i64::MIN,
            end: i64::MAX,
            order,
            limit: None,
            after: None,
        };
        let mut stream = runtime.block_on(pool.samples(query)).unwrap();
        let first = runtime.block_on(stream.next()).unwrap().unwrap().len();
        assert!(first < expected, "{order:?}: nothing is left to be read");
        store.commit(&super::fixture::heart_rate("u_1", start, 10));
        store.flush();
        let mut rows = first;
        while let Some(chunk) = runtime.block_on(stream.next()) {
            rows += chunk.unwrap().len();
        }
        assert_eq!(rows, expected, "{order:?}");
    }
}
