//! SQL: what it answers, whose it is, and where it stops.

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use proptest::prelude::*;
use serde_json::{Value, json};
use systole_storage::hidden::{EVERY_METRIC, RetentionRule};
use systole_storage::query::{QueryPool, SqlError, SqlFormat, SqlLimits, SqlQuestion};
use systole_storage::{LatestValue, StoreError};
use tokio::runtime::Runtime;

use super::fixture::{Samples, TestStore, everything_of, heart_rate, range_of};

const JUNE_2026: i64 = 1_782_805_500_000;
/// A statement that needs little and never ends.
const ENDLESS: &str =
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n";

pub struct Asker {
    runtime: Runtime,
    pool: QueryPool,
}

impl Asker {
    pub fn new(store: &TestStore) -> Asker {
        Asker::with(store, 64 << 20, SqlLimits::default())
    }

    fn with(store: &TestStore, memory: usize, limits: SqlLimits) -> Asker {
        let pool = QueryPool::start_with(store.store.clone(), 2, 4, memory, limits).unwrap();
        Asker { runtime: Runtime::new().unwrap(), pool }
    }

    fn bytes(&self, org: &str, text: &str, format: SqlFormat) -> Result<Vec<u8>, SqlError> {
        let question = SqlQuestion { org: org.to_owned(), text: text.to_owned(), format };
        self.runtime.block_on(async {
            let mut answer = self.pool.sql(question).await?;
            let mut all = Vec::new();
            while let Some(bytes) = answer.next().await {
                all.extend_from_slice(&bytes?);
            }
            Ok(all)
        })
    }

    fn try_rows(&self, org: &str, text: &str) -> Result<Vec<Value>, SqlError> {
        let bytes = self.bytes(org, text, SqlFormat::Json)?;
        let answer: Value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|fault| panic!("{text}: {fault}: {}", String::from_utf8_lossy(&bytes)));
        Ok(answer["rows"].as_array().unwrap().clone())
    }

    #[track_caller]
    pub fn rows(&self, org: &str, text: &str) -> Vec<Value> {
        self.try_rows(org, text).unwrap_or_else(|error| panic!("{text}: {error:?}"))
    }
}

/// A store that has flushed some, corrected some of it in a second flush, and holds the rest.
fn spread() -> (tempfile::TempDir, TestStore) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for user in ["u_1", "u_2", "u_3"] {
        store.commit(&heart_rate(user, JUNE_2026, 1000));
        store.commit(&Samples { org: "acme", ..heart_rate(user, JUNE_2026, 10) });
    }
    store.commit(&Samples { metric: "steps", ..heart_rate("u_1", JUNE_2026, 20) });
    store.flush();
    store.commit(&Samples { rows: vec![(JUNE_2026, 200.0)], ..heart_rate("u_1", 0, 1) });
    store.flush();
    store.commit(&Samples {
        rows: vec![(JUNE_2026, 201.0), (JUNE_2026 + 1000, 202.0)],
        ..heart_rate("u_2", 0, 1)
    });
    store.commit(&heart_rate("a \"user\"", JUNE_2026 - 1_000_000, 5));
    (dir, store)
}

#[test]
fn a_statement_sees_each_key_once_with_its_latest_value() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let rows = asker.rows(
        "default",
        "SELECT user_id, count(*), max(value) FROM samples WHERE metric = 'heart_rate' GROUP BY 1 ORDER BY 1",
    );
    let expected =
        json!([["a \"user\"", 5, 64.0], ["u_1", 1000, 200.0], ["u_2", 1000, 202.0], ["u_3", 1000, 99.0]]);
    assert_eq!(Value::from(rows), expected);
    let count = |condition: &str| {
        let text = format!("SELECT count(*) FROM samples WHERE {condition}");
        asker.rows("default", &text)[0][0].as_u64().unwrap()
    };
    // A superseded value does not come back because its successor fails a condition.
    assert_eq!(count("metric = 'heart_rate' AND recorded_at = '2026-06-30T07:45:00Z' AND value < 100"), 1);
    assert_eq!(count("sequence <= 7 AND user_id = 'u_2' AND metric = 'heart_rate'"), 998);
    assert_eq!(
        count("user_id = 'u_2' AND metric = 'heart_rate' AND recorded_at < '2026-06-30T07:45:03Z'"),
        3
    );
    assert_eq!(count("metric IN ('steps', 'heart_rate') AND user_id IN ('u_1', 'nobody')"), 1020);
    assert_eq!(count("metric LIKE 'st%'"), 20);
    assert_eq!(count("metric = 'steps' OR user_id = 'u_3'"), 1020);
    assert_eq!(count("true"), 3025);
    assert_eq!(count("org = 'default'"), 3025);
    assert_eq!(count("org = 'acme'"), 0);
    assert_eq!(count("source = 'garmin' AND unit = 'bpm' AND device IS NULL AND ended_at IS NULL"), 3025);
    assert_eq!(count("source = 'apple'"), 0);
}

#[test]
fn all_columns_print_in_the_order_of_the_files() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let text = "SELECT * FROM samples WHERE metric = 'steps' ORDER BY recorded_at LIMIT 1";
    let bytes = asker.bytes("default", text, SqlFormat::Json).unwrap();
    let expected = concat!(
        r#"{"columns":[{"name":"org","type":"text"},{"name":"user_id","type":"text"},{"name":"metric","type":"text"},"#,
        r#"{"name":"recorded_at","type":"timestamp"},{"name":"value","type":"float64"},{"name":"unit","type":"text"},"#,
        r#"{"name":"source","type":"text"},{"name":"device","type":"text"},{"name":"zone_offset_minutes","type":"int16"},"#,
        r#"{"name":"ended_at","type":"timestamp"},{"name":"is_daily_total","type":"boolean"},{"name":"sequence","type":"uint64"},"#,
        r#"{"name":"received_at","type":"timestamp"}],"rows":[["default","u_1","steps","2026-06-30T07:45:00Z",60.0,"bpm","#,
        r#""garmin",null,null,null,null,7,"2026-06-30T07:45:00Z"]]}"#
    );
    assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    let csv =
        asker.bytes("default", "SELECT user_id, value FROM latest ORDER BY 1, 2 LIMIT 2", SqlFormat::Csv);
    assert_eq!(
        String::from_utf8(csv.unwrap()).unwrap(),
        "user_id,value\r\n\"a \"\"user\"\"\",64.0\r\nu_1,79.0\r\n"
    );
    let stream = asker.bytes("default", "SELECT user_id, value FROM samples", SqlFormat::Arrow).unwrap();
    let stream = arrow::ipc::reader::StreamReader::try_new(stream.as_slice(), None).unwrap();
    assert_eq!(stream.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 3025);
}

#[test]
fn latest_is_what_each_user_has_last() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let text = "SELECT user_id, metric, value, recorded_at FROM latest WHERE user_id IN ('u_1', 'u_9') ORDER BY metric";
    let expected = json!([
        ["u_1", "heart_rate", 99.0, "2026-06-30T08:01:39Z"],
        ["u_1", "steps", 79.0, "2026-06-30T07:45:19Z"],
    ]);
    assert_eq!(Value::from(asker.rows("default", text)), expected);
    assert_eq!(asker.rows("default", "SELECT count(*) FROM latest")[0][0], 5);
    assert_eq!(asker.rows("acme", "SELECT count(*), max(value) FROM latest")[0], json!([3, 69.0]));
    assert_eq!(asker.rows("nobody", "SELECT count(*) FROM latest")[0][0], 0);
}

#[test]
fn no_statement_leads_out_of_its_organisation() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    // Whatever they see is their own: three users with ten samples each.
    for text in [
        "SELECT count(*) FROM samples",
        "SELECT count(*) FROM systole.public.samples",
        "SELECT count(*) FROM public.samples",
        "SELECT count(*) FROM \"samples\"",
        "SELECT count(*) FROM SAMPLES",
        "SELECT count(*) FROM samples WHERE true OR org = 'default'",
        "SELECT count(*) FROM samples WHERE org IN ('default', 'acme')",
        "WITH samples AS (SELECT * FROM samples) SELECT count(*) FROM samples",
        "SELECT count(*) FROM samples a WHERE EXISTS (SELECT 1 FROM samples b WHERE b.user_id = a.user_id)",
        "SELECT count(*) FROM samples a LEFT JOIN latest b ON a.user_id = b.user_id AND a.metric = b.metric",
        "SELECT sum(n) FROM (SELECT count(*) AS n FROM samples UNION ALL SELECT 0)",
    ] {
        assert_eq!(asker.rows("acme", text)[0][0], 30, "{text}");
        assert_eq!(asker.rows("default", text)[0][0].as_u64().unwrap() % 3025, 0, "{text}");
    }
    assert_eq!(asker.rows("acme", "SELECT DISTINCT org FROM samples"), [json!(["acme"])]);
    assert_eq!(asker.rows("acme", "SELECT count(*) FROM samples WHERE org <> 'acme'")[0][0], 0);
    assert_eq!(asker.rows("nobody", "SELECT count(*) FROM samples")[0][0], 0);
    // Names that lead nowhere.
    for text in [
        "SELECT * FROM deliveries",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM systole.information_schema.columns",
        "SELECT * FROM datafusion.public.samples",
        "SELECT * FROM default.samples",
        "SELECT * FROM acme.public.samples",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 'samples/org=default/metric=heart_rate/period=2026/bucket=0/0-00000000000000000007.parquet'",
        "SELECT * FROM \"file:///etc/passwd\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('/etc/passwd')",
        "SELECT * FROM parquet_metadata('/etc/passwd')",
        "SELECT * FROM generate_series(1, 10)",
        "SELECT * FROM range(1, 10)",
        "SELECT random()",
        "SELECT uuid()",
        "SELECT version()",
        "SELECT repeat('x', 1000000000)",
        "SELECT replace(user_id, 'u', 'uuuuuu') FROM samples",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT nothing FROM samples",
        "SELECT count(*) FROM samples WHERE user_id = $1",
        "SELECT @@version",
    ] {
        match asker.try_rows("acme", text) {
            Err(SqlError::Invalid(said)) => {
                assert!(!said.is_empty() && !said.contains("default\""), "{text}: {said}")
            }
            other => panic!("{text}: {other:?}"),
        }
    }
    for text in [
        "SELECT * INTO mine FROM samples",
        "DELETE FROM samples",
        "COPY samples TO '/tmp/x.csv'",
        "SET a = 1",
    ] {
        assert!(matches!(asker.try_rows("acme", text), Err(SqlError::NotAllowed(_))), "{text}");
    }
    let said = asker.try_rows("acme", "SELECT * FROM deliveries").unwrap_err().to_string();
    assert!(said.contains("samples, latest and attempts"), "{said}");
    assert_eq!(asker.rows("default", "SELECT count(*) FROM samples")[0][0], 3025);
}

#[test]
fn what_is_compacted_is_scanned_as_it_stands() {
    let (_dir, mut store) = spread();
    let asker = Asker::new(&store);
    let sums = "SELECT user_id, metric, count(*), sum(value), min(recorded_at) FROM samples GROUP BY 1, 2 ORDER BY 1, 2";
    let before = asker.rows("default", sums);
    store.flush();
    assert_eq!(asker.rows("default", sums), before);
    store.compact();
    assert_eq!(asker.rows("default", sums), before);
    let plan = Value::from(asker.rows("default", &format!("EXPLAIN {sums}"))).to_string();
    assert!(plan.contains("DataSourceExec") && !plan.contains("MergedExec"), "{plan}");
    // A sample more makes its metric's file one that is merged, until it is flushed.
    store.commit(&Samples { rows: vec![(JUNE_2026, 300.0)], ..heart_rate("u_3", 0, 1) });
    let plan = Value::from(asker.rows("default", &format!("EXPLAIN {sums}"))).to_string();
    assert!(plan.contains("DataSourceExec") && plan.contains("MergedExec"), "{plan}");
    let greatest = asker.rows("default", "SELECT count(*), max(value) FROM samples WHERE user_id = 'u_3'");
    assert_eq!(Value::from(greatest), json!([[1000, 300.0]]));
    assert_eq!(asker.rows("default", "SELECT count(*) FROM samples")[0][0], 3025);
}

#[test]
fn explain_shows_a_plan_and_runs_nothing() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let rows = asker.rows("default", "EXPLAIN SELECT count(*) FROM samples WHERE metric = 'steps'");
    assert!(Value::from(rows).to_string().contains("MergedExec"));
}

#[test]
fn times_are_cut_in_utc_as_calendars_do() {
    const DAY: i64 = 86_400_000;
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    // 1970 and before, leap days, ends of months and years.
    for time in
        [-2_208_988_800_000, -1, 0, 951_782_400_000, 951_868_799_999, JUNE_2026, JUNE_2026 + 185 * DAY]
    {
        store.commit(&Samples { rows: vec![(time, 1.0)], ..heart_rate("u_1", 0, 1) });
    }
    let asker = Asker::new(&store);
    for unit in ["second", "minute", "hour", "day", "week", "month", "quarter", "year"] {
        // Through a time without a zone, which DataFusion cuts itself.
        let plain = format!("date_trunc('{unit}', CAST(recorded_at AS TIMESTAMP))");
        let differ = format!(
            "SELECT count(*) FROM samples WHERE CAST(date_trunc('{unit}', recorded_at) AS TIMESTAMP) <> {plain}"
        );
        assert_eq!(asker.rows("default", &differ), [json!([0])], "{unit}");
    }
    let days = asker.rows("default", "SELECT date_trunc('day', recorded_at) FROM samples ORDER BY 1 LIMIT 2");
    assert_eq!(days, [json!(["1900-01-01T00:00:00Z"]), json!(["1969-12-31T00:00:00Z"])]);
}

#[test]
fn now_is_one_moment_of_a_statement() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let text =
        "SELECT count(*) FROM samples WHERE recorded_at < now() + interval '100 years' AND now() = now()";
    assert_eq!(asker.rows("acme", text), [json!([30])]);
    let text = "SELECT now() > TIMESTAMP '2026-01-01T00:00:00Z', current_date >= DATE '2026-01-01'";
    assert_eq!(asker.rows("acme", text), [json!([true, true])]);
}

#[test]
fn what_was_erased_is_in_no_answer_before_and_after_its_bytes_are_gone() {
    let (_dir, mut store) = spread();
    let count = "SELECT count(*) FROM samples WHERE user_id = 'u_1'";
    let others = "SELECT count(*) FROM samples WHERE user_id <> 'u_1'";
    let latest = "SELECT count(*) FROM latest WHERE user_id = 'u_1'";
    store.compact();
    let asker = Asker::new(&store);
    let kept = asker.rows("default", others);
    assert_ne!(asker.rows("default", count), [json!([0])]);
    store.erase("default", everything_of("u_1", false));
    for sql in [count, latest] {
        assert_eq!(asker.rows("default", sql), [json!([0])], "{sql}");
    }
    assert_eq!(asker.rows("default", others), kept);
    assert_ne!(asker.rows("acme", count), [json!([0])], "another organisation's user of that name stays");
    store.commit(&heart_rate("u_1", JUNE_2026, 3));
    assert_eq!(asker.rows("default", count), [json!([3])], "what comes later is new");
    store.carry_out(&asker.pool);
    assert_eq!(asker.rows("default", count), [json!([3])]);
    assert_eq!(asker.rows("default", others), kept);
}

#[test]
fn what_was_deleted_of_all_users_is_in_no_answer_before_and_after_its_bytes_are_gone() {
    let (_dir, mut store) = spread();
    store.compact();
    let asker = Asker::new(&store);
    let count = |condition: &str, org: &str| {
        asker.rows(org, &format!("SELECT count(*) FROM samples WHERE {condition}"))[0][0].as_u64().unwrap()
    };
    let (minute, hours) = ("recorded_at >= '2026-06-30T07:46:00Z'", "recorded_at < '2026-06-30T07:47:00Z'");
    let within = format!("metric = 'heart_rate' AND {minute} AND {hours}");
    let newest = "SELECT user_id, recorded_at FROM latest WHERE metric = 'heart_rate' ORDER BY 1";
    let theirs = count("true", "acme");
    for (metric, from, to, samples) in [
        (Some("heart_rate"), JUNE_2026 + 60_000, JUNE_2026 + 120_000, 180),
        (None, JUNE_2026, JUNE_2026 + 5_000, 20),
        // Their newest ones.
        (Some("heart_rate"), JUNE_2026 + 900_000, i64::MAX, 300),
        (Some("heart_rate"), JUNE_2026 + 900_000, i64::MAX, 0),
        (Some("no_such_metric"), i64::MIN, i64::MAX, 0),
    ] {
        let before = count("true", "default");
        let tombstone = store.erase("default", range_of(None, metric, from..to));
        let counted = asker.runtime.block_on(asker.pool.count_erased(&tombstone, Vec::new())).unwrap();
        assert_eq!((counted, before - count("true", "default")), (samples, samples), "{metric:?} {from}");
    }
    assert_eq!(count(&within, "default"), 0);
    let last = "2026-06-30T07:59:59Z";
    let left = [("a \"user\"", "2026-06-30T07:28:24Z"), ("u_1", last), ("u_2", last), ("u_3", last)];
    let left = left.map(|(user, time)| json!([user, time]));
    assert_eq!(asker.rows("default", newest), left);
    store.commit(&heart_rate("u_3", JUNE_2026 + 60_000, 3));
    for round in ["hidden", "carried out"] {
        assert_eq!(count(&within, "default"), 3, "{round}");
        assert_eq!(count("user_id = 'u_1'", "default"), 1000 - 60 - 5 - 100 + 15, "{round}");
        assert_eq!(count("true", "acme"), theirs, "{round}");
        store.carry_out(&asker.pool);
    }
    assert_eq!(asker.rows("default", newest), left);
}

#[test]
fn many_deleted_newest_values_show_what_is_left_of_each() {
    const DAY: i64 = 86_400_000;
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let user = |number: i64| format!("u_{number}");
    // What is left is of the same day, or up to four years older, or nothing.
    let left = |number: i64| match number % 5 {
        0 => None,
        1 => Some(JUNE_2026 - 2 - number),
        2 => Some(JUNE_2026 - 10 * DAY - number),
        3 => Some(JUNE_2026 - 200 * DAY - number),
        _ => Some(JUNE_2026 - 1500 * DAY - number),
    };
    for number in 0..60 {
        for metric in ["heart_rate", "steps"] {
            let deleted = [(JUNE_2026 + number, 1.0), (JUNE_2026 + 20 * DAY, 2.0)];
            let times = left(number).into_iter().flat_map(|time| [(time - 1000, 3.0), (time, number as f64)]);
            let rows = times.chain(deleted).collect();
            store.commit(&Samples { metric, rows, ..heart_rate(&user(number), 0, 0) });
        }
        if number == 30 {
            store.flush();
        }
    }
    store.compact();
    for number in (10..20).chain(40..50) {
        // The newest that is left is a correction, of a sample in a file or in memory.
        let rows = left(number).into_iter().map(|time| (time, -1.0)).collect::<Vec<_>>();
        if !rows.is_empty() {
            store.commit(&Samples { rows, ..heart_rate(&user(number), 0, 0) });
        }
    }
    store.commit(&Samples { metric: "spo2", ..heart_rate("u_7", JUNE_2026 - DAY, 3) });
    store.erase("default", range_of(None, None, JUNE_2026..i64::MAX));
    let asker = Asker::new(&store);
    let text = "SELECT user_id, metric, CAST(recorded_at AS BIGINT), value FROM latest";
    let mut expected = Vec::new();
    for number in 0..60 {
        let latest = asker.runtime.block_on(asker.pool.latest("default", &user(number))).unwrap();
        let newest: Vec<_> =
            latest.iter().filter(|it| it.metric != "spo2").map(|it| it.recorded_at).collect();
        assert_eq!(newest, Vec::from_iter(left(number).into_iter().flat_map(|time| [time; 2])), "{number}");
        let row = |it: LatestValue| json!([user(number), it.metric, it.recorded_at, it.value]);
        expected.extend(latest.into_iter().map(row));
    }
    let sorted = |condition: &str| {
        let mut rows = asker.rows("default", &format!("{text} {condition}"));
        rows.sort_by_key(Value::to_string);
        rows
    };
    expected.sort_by_key(Value::to_string);
    assert_eq!(expected.len(), 2 * 48 + 1);
    assert_eq!(sorted(""), expected);
    let steps: Vec<Value> = expected.iter().filter(|row| row[1] == "steps").cloned().collect();
    assert_eq!(sorted("WHERE metric = 'steps'"), steps);
    let users = (0..60).map(|number| format!("'{}'", user(number))).collect::<Vec<_>>().join(",");
    assert_eq!(sorted(&format!("WHERE user_id IN ({users})")), expected);
    assert_eq!(sorted("WHERE user_id = 'u_7' AND metric IN ('spo2', 'steps')").len(), 2);
}

#[test]
fn a_value_whose_sample_age_took_does_not_come_back_when_samples_are_kept_longer() {
    let (dir, mut store) = spread();
    // Of 1970.
    let old = |user: &str, metric| Samples { metric, rows: vec![(1000, 1.0)], ..heart_rate(user, 0, 0) };
    for samples in [old("old_1", "heart_rate"), old("old_1", "steps"), old("u_1", "spo2")] {
        store.commit(&samples);
    }
    store.flush();
    store.store.checkpoint_series(store.store.flushed_position(), false).unwrap();
    let rule = |metric: &str, days| RetentionRule { metric: metric.to_owned(), days };
    let rules = vec![rule(EVERY_METRIC, Some(20_000)), rule("steps", None)];
    store.store.set_retention("default", rules).unwrap();
    store.compact();
    store.commit(&old("old_2", "heart_rate"));
    let asker = Asker::new(&store);
    let shown = |table: &str| {
        let old = "recorded_at < '1971-01-01T00:00:00Z'";
        asker.rows("default", &format!("SELECT user_id, metric FROM {table} WHERE {old} ORDER BY 1, 2"))
    };
    assert_eq!(shown("latest"), [json!(["old_1", "steps"])]);
    store.store.set_retention("default", Vec::new()).unwrap();
    let left = [json!(["old_1", "steps"]), json!(["old_2", "heart_rate"])];
    let in_map = |store: &TestStore, user: &str| {
        let values = store.store.series().latest("default", user).unwrap();
        values.into_iter().map(|value| value.metric).collect::<Vec<_>>()
    };
    for (round, changed) in [("dropped", 2), ("out of the map", 0)] {
        assert_eq!((shown("samples"), shown("latest")), (left.to_vec(), left.to_vec()), "{round}");
        let latest = asker.runtime.block_on(asker.pool.latest("default", "old_1")).unwrap();
        assert_eq!(
            latest.iter().map(|value| value.metric.as_str()).collect::<Vec<_>>(),
            ["steps"],
            "{round}"
        );
        assert_eq!(in_map(&store, "old_1").len(), if changed > 0 { 2 } else { 1 }, "{round}");
        let find = |org: &str, user: &str, value: &LatestValue| {
            let newest = asker.pool.newest_until(org, user, &value.metric, value.recorded_at);
            Ok::<_, StoreError>((store.last, newest.unwrap()))
        };
        assert_eq!(store.store.forget_aged(find).unwrap(), changed, "{round}");
    }
    drop(asker);
    drop(store);
    let store = TestStore::open(dir.path());
    assert_eq!(
        (in_map(&store, "old_1"), in_map(&store, "old_2")),
        (vec!["steps".to_owned()], vec!["heart_rate".to_owned()])
    );
    assert!(store.store.hidden().may_be_dropped("default", "heart_rate", 1000));
}

#[test]
fn samples_of_an_order_are_counted_beside_statements_as_they_were_before_it() {
    let (_dir, mut store) = spread();
    let limits = SqlLimits { concurrency: 1, timeout: Duration::from_secs(600), rows_max: u64::MAX >> 8 };
    let asker = Asker::with(&store, 64 << 20, limits);
    let tombstone = store.erase("default", range_of(None, Some("heart_rate"), JUNE_2026..JUNE_2026 + 10_000));
    // Sent again before the others are counted.
    store.commit(&heart_rate("u_1", JUNE_2026, 5));
    let question =
        SqlQuestion { org: "default".to_owned(), text: ENDLESS.to_owned(), format: SqlFormat::Json };
    let counted = asker.runtime.block_on(async {
        let (endless, counting) = (asker.pool.sql(question), asker.pool.count_erased(&tombstone, Vec::new()));
        match select(pin!(endless), pin!(counting)).await {
            Either::Left(_) => panic!("it has an end"),
            Either::Right((counted, _)) => counted.unwrap(),
        }
    });
    assert_eq!(counted, 30);
}

#[test]
fn mistakes_of_the_author_are_told_to_the_author() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    for (text, part) in [
        ("SELECT", "Expected"),
        ("SELECT valeu FROM samples", "valeu"),
        ("SELECT 1 / 0", "ivide by zero"),
        (
            "SELECT sum(value) / (max(sequence) - max(sequence)) FROM samples WHERE user_id = 'x' OR 1 / 0 = 1",
            "ivide",
        ),
        ("SELECT CAST(user_id AS INT) FROM samples", "ast"),
        ("SELECT no_such_function(value) FROM samples", "no_such_function"),
        ("SELECT user_id, sum(value) FROM samples", "GROUP BY"),
    ] {
        match asker.try_rows("default", text) {
            Err(SqlError::Invalid(said)) => assert!(said.contains(part), "{text}: {said}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn rows_time_and_memory_are_bounded() {
    let (_dir, store) = spread();
    let limits = SqlLimits { concurrency: 1, timeout: Duration::from_secs(2), rows_max: 2000 };
    let asker = Asker::with(&store, 4 << 20, limits);
    assert_eq!(asker.rows("default", "SELECT user_id FROM samples LIMIT 2000").len(), 2000);
    let error = asker.try_rows("default", "SELECT user_id FROM samples").unwrap_err();
    assert!(matches!(error, SqlError::Rows { max: 2000 }), "{error:?}");
    let cube = "FROM samples a CROSS JOIN (samples b CROSS JOIN samples c)";
    let begun = Instant::now();
    for text in [
        format!("SELECT count(*), sum(a.value * b.value + c.value) {cube}"),
        "SELECT count(DISTINCT a.value * b.value + c.value) FROM samples a, samples b, samples c".to_owned(),
    ] {
        let error = asker.try_rows("default", &text).unwrap_err();
        assert!(matches!(error, SqlError::Timeout { .. } | SqlError::Memory(_)), "{text}: {error:?}");
    }
    let error = asker.try_rows("default", ENDLESS).unwrap_err();
    assert!(matches!(error, SqlError::Timeout { .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(20));
    for text in [
        "SELECT a.user_id, b.sequence FROM samples a CROSS JOIN samples b ORDER BY a.value, b.value"
            .to_owned(),
        "SELECT count(DISTINCT concat(a.recorded_at, b.recorded_at)) FROM samples a CROSS JOIN samples b"
            .to_owned(),
    ] {
        let error = asker.try_rows("default", &text).unwrap_err();
        assert!(matches!(error, SqlError::Memory(_) | SqlError::Timeout { .. }), "{text}: {error:?}");
    }
    // What was refused gave back what it took.
    assert_eq!(asker.rows("default", "SELECT count(*) FROM samples")[0][0], 3025);
}

#[test]
fn a_long_answer_streams_and_its_rows_are_counted_before_the_first() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let wide = "SELECT a.*, b.value AS other FROM samples a JOIN samples b ON a.metric = b.metric \
         WHERE a.user_id = 'u_1' AND b.user_id <> 'u_3' AND a.metric = 'heart_rate'";
    let question =
        || SqlQuestion { org: "default".to_owned(), text: wide.to_owned(), format: SqlFormat::Json };
    // Two million rows are over the limit; eight mebibytes of them are not.
    let error = asker.runtime.block_on(asker.pool.sql(question())).unwrap_err();
    assert!(matches!(error, SqlError::Rows { max: 1_000_000 }), "{error:?}");
    let limits = SqlLimits { rows_max: 10_000_000, ..SqlLimits::default() };
    let asker = Asker::with(&store, 64 << 20, limits);
    let mut answer = asker.runtime.block_on(asker.pool.sql(question())).unwrap();
    assert_eq!(answer.whole(), None);
    assert_eq!(asker.pool.sql_running(), 1);
    let (mut bytes, mut last) = (0, Vec::new());
    while let Some(chunk) = asker.runtime.block_on(answer.next()) {
        last = chunk.unwrap().to_vec();
        bytes += last.len();
    }
    assert!(bytes > 200_000_000 && last.ends_with(b"]}"), "{bytes}");
}

#[test]
fn dropping_an_answer_ends_its_statement() {
    let (_dir, store) = spread();
    let limits = SqlLimits { concurrency: 1, timeout: Duration::from_secs(600), rows_max: u64::MAX >> 8 };
    let asker = Asker::with(&store, 64 << 20, limits);
    let ended = |what: &str| {
        let begun = Instant::now();
        while asker.pool.sql_running() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what} goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    // Before anything came: the question itself is dropped.
    let text = ENDLESS.to_owned();
    let question = SqlQuestion { org: "default".to_owned(), text, format: SqlFormat::Json };
    let waited = asker
        .runtime
        .block_on(async { tokio::time::timeout(Duration::from_millis(300), asker.pool.sql(question)).await });
    assert!(waited.is_err());
    ended("an aggregate");
    // In the midst of it. Counting its rows alone would take years.
    let text = "SELECT a.user_id, b.user_id AS b, a.recorded_at FROM samples a CROSS JOIN samples b";
    let question = SqlQuestion { org: "default".to_owned(), text: text.to_owned(), format: SqlFormat::Csv };
    let mut answer = asker.runtime.block_on(asker.pool.sql(question)).unwrap();
    asker.runtime.block_on(answer.next()).unwrap().unwrap();
    assert_eq!(asker.pool.sql_running(), 1);
    drop(answer);
    ended("a stream");
    assert_eq!(asker.rows("default", "SELECT count(*) FROM samples")[0][0], 3025);
}

#[test]
fn statements_at_the_edge_of_what_is_parsed_do_not_overflow() {
    let (_dir, store) = spread();
    let asker = Asker::new(&store);
    let chain = |n: usize, operator: &str| format!("SELECT {} AS x", vec!["1"; n].join(operator));
    assert_eq!(asker.rows("default", &chain(900, "+"))[0][0], 900);
    let or = vec!["value = 1"; 400].join(" OR ");
    assert_eq!(asker.rows("default", &format!("SELECT count(*) FROM samples WHERE {or}"))[0][0], 0);
    let users = (0..20_000).map(|n| format!("'u_{n}'")).collect::<Vec<_>>().join(",");
    let text = format!("SELECT count(*) FROM samples WHERE user_id IN ({users})");
    assert_eq!(asker.rows("default", &text)[0][0], 3020);
    for text in [
        format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT {}", vec!["true"; 10_000].join(" AND ")),
        format!("SELECT {}1{}", "(SELECT ".repeat(1_000), ")".repeat(1_000)),
        format!("SELECT {}1{}", "abs(".repeat(1_000), ")".repeat(1_000)),
        format!("SELECT {}1 END", "CASE WHEN true THEN ".repeat(1_000)),
    ] {
        assert!(matches!(asker.try_rows("default", &text), Err(SqlError::Invalid(_))), "{}", &text[..30]);
    }
}

type Key = (&'static str, String, &'static str, i64, &'static str, Option<&'static str>);
type Model = BTreeMap<Key, f64>;

#[derive(Clone, Debug)]
enum Step {
    Commit(Samples),
    Flush,
    Compact,
    CompactWhole,
}

fn samples() -> impl Strategy<Value = Samples> {
    let time =
        prop_oneof![0..40i64, (0..24i64).prop_map(|month| month * 2_592_000_000), Just(-2_000_000_000_000)];
    (
        prop::sample::select(vec!["default", "default", "acme"]),
        prop::sample::select(vec!["u_1", "u_2", "a_user_with_a_long_name"]),
        prop::sample::select(vec!["heart_rate", "steps"]),
        prop::sample::select(vec!["garmin", "apple"]),
        prop::sample::select(vec![None, Some("d_1"), Some("a_device_with_a_long_name")]),
        prop::collection::btree_map(time, -50..50i32, 1..40),
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

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => samples().prop_map(Step::Commit),
        2 => Just(Step::Flush),
        1 => Just(Step::Compact),
        1 => Just(Step::CompactWhole),
    ]
}

/// Conditions in SQL and in Rust.
type Condition = (&'static str, fn(&Key, f64) -> bool);

const CONDITIONS: [Condition; 10] = [
    ("true", |_, _| true),
    ("metric = 'steps'", |key, _| key.2 == "steps"),
    ("value > 0", |_, value| value > 0.0),
    ("user_id = 'u_2' AND metric <> 'steps'", |key, _| key.1 == "u_2" && key.2 != "steps"),
    ("user_id IN ('u_1', 'u_2') AND value <= 10", |key, value| key.1.starts_with("u_") && value <= 10.0),
    ("recorded_at >= '1970-01-01T00:00:00.010Z'", |key, _| key.3 >= 10),
    ("recorded_at < '1970-01-01' AND source = 'apple'", |key, _| key.3 < 0 && key.4 == "apple"),
    ("device IS NULL OR device = 'd_1'", |key, _| key.5.is_none_or(|device| device == "d_1")),
    ("source = 'garmin' AND metric = 'heart_rate' AND abs(value) < 20", |key, value| {
        key.4 == "garmin" && key.2 == "heart_rate" && value.abs() < 20.0
    }),
    ("user_id > 'u' AND recorded_at BETWEEN '1970-01-31' AND '1971-01-01'", |key, _| {
        *key.1 > *"u" && (2_592_000_000..=31_536_000_000).contains(&key.3)
    }),
];

fn check(asker: &Asker, model: &Model) {
    for org in ["default", "acme"] {
        for (condition, holds) in CONDITIONS {
            let mut by_user: BTreeMap<(&str, &str), (u64, f64)> = BTreeMap::new();
            for (key, value) in model.iter().filter(|(key, value)| key.0 == org && holds(key, **value)) {
                let sums = by_user.entry((&key.1, key.2)).or_default();
                *sums = (sums.0 + 1, sums.1 + value);
            }
            let expected: Vec<Value> = by_user
                .iter()
                .map(|((user, metric), (count, sum))| json!([user, metric, count, sum]))
                .collect();
            let text = format!(
                "SELECT user_id, metric, count(*), sum(value) FROM samples WHERE {condition} GROUP BY 1, 2 ORDER BY 1, 2"
            );
            assert_eq!(asker.rows(org, &text), expected, "{org}: {condition}");
            let count: u64 = by_user.values().map(|(count, _)| count).sum();
            let text = format!("SELECT count(*) FROM samples WHERE {condition}");
            assert_eq!(asker.rows(org, &text), [json!([count])], "{org}: {condition}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_spread_over_files_and_buffers_answers_like_a_map(
        steps in prop::collection::vec(step(), 1..30)
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut store = TestStore::open(dir.path());
        let asker = Asker::new(&store);
        let mut model = Model::new();
        for step in &steps {
            match step {
                Step::Commit(samples) => {
                    store.commit(samples);
                    for &(time, value) in &samples.rows {
                        let user = samples.user.clone();
                        model.insert((samples.org, user, samples.metric, time, samples.source, samples.device), value);
                    }
                }
                Step::Flush => store.flush(),
                Step::Compact => {
                    store.compact_some();
                }
                Step::CompactWhole => {
                    store.compact();
                }
            }
        }
        check(&asker, &model);
        store.flush();
        check(&asker, &model);
        store.compact();
        check(&asker, &model);
    }
}
