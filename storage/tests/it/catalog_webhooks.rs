//! What the catalog keeps of webhooks, over restarts and deletions.

use std::path::Path;

use rusqlite::Connection;
use systole_storage::{
    CATALOG_FILE, Catalog, CatalogError, CursorRecord, EndpointChange, EndpointRecord, ExceptionRecord,
    HealthRecord, LaneChanges, LaneRanges, Sequence,
};

fn endpoint(id: &str, start: u64) -> EndpointRecord {
    EndpointRecord {
        id: id.to_owned(),
        number: 0,
        org: "acme".to_owned(),
        settings: "{\"url\":\"https://example.org\"}".to_owned(),
        secret: format!("whsec_{id}"),
        previous: None,
        start: Sequence(start),
        created_at: 5,
        updated_at: 5,
    }
}

fn exception(endpoint: &str, sequence: u64) -> ExceptionRecord {
    ExceptionRecord {
        endpoint: endpoint.to_owned(),
        sequence,
        group: 2,
        chunk: 3,
        kind: 4,
        decided_at: sequence + 1,
        // Hashes and sequences use all 64 bits, SQLite's numbers are signed.
        key: u64::MAX - sequence,
        attempts: 1,
        due_at: 1_782_805_500_000,
        members: Vec::new(),
        ordinal: 5,
        quiet: sequence.is_multiple_of(2),
    }
}

fn place(exception: &ExceptionRecord) -> (String, u64, u32, u16, u8) {
    (exception.endpoint.clone(), exception.sequence, exception.group, exception.chunk, exception.kind)
}

fn cursor(sequence: u64, ordinal: u32) -> CursorRecord {
    CursorRecord { sequence, ordinal }
}

/// Everything a save may change.
#[derive(Debug, PartialEq)]
struct Lanes {
    routed: Option<Sequence>,
    classified: Option<Sequence>,
    cursors: Vec<(String, CursorRecord)>,
    exceptions: Vec<ExceptionRecord>,
}

fn lanes(catalog: &Catalog) -> Lanes {
    let mut cursors = catalog.lane_cursors().unwrap();
    cursors.sort();
    Lanes {
        routed: catalog.routed().unwrap(),
        classified: catalog.classified().unwrap(),
        cursors,
        exceptions: catalog.exceptions().unwrap(),
    }
}

fn change(settings: &str, updated_at: i64, restart: Option<u64>) -> EndpointChange<'_> {
    let restart = restart.map(Sequence);
    EndpointChange { settings, secret: "whsec_new", previous: None, updated_at, restart }
}

/// A statement from outside the program.
fn sql(data_dir: &Path, statements: &str) {
    Connection::open(data_dir.join(CATALOG_FILE)).unwrap().execute_batch(statements).unwrap();
}

/// A save that touches everything: two lanes lag, one of two failures is over.
fn every_change() -> LaneChanges {
    LaneChanges {
        routed: Some(Sequence(40)),
        classified: Some(Sequence(41)),
        wiped: vec!["ep_a".to_owned()],
        cursors: vec![("ep_a".to_owned(), cursor(30, 2)), ("ep_b".to_owned(), cursor(31, 0))],
        caught_up: vec!["ep_c".to_owned()],
        failed: vec![exception("ep_a", 22), exception("ep_b", 23)],
        settled: vec![place(&exception("ep_b", 11))],
        ranges: LaneRanges::default(),
    }
}

/// Three endpoints with cursors, two of them with a failure.
fn with_lanes(catalog: &Catalog) {
    for id in ["ep_a", "ep_b", "ep_c"] {
        catalog.insert_endpoint(&endpoint(id, 9)).unwrap();
    }
    let failed = vec![exception("ep_a", 10), exception("ep_b", 11), exception("ep_b", 12)];
    catalog.save_lanes(&LaneChanges { failed, ..LaneChanges::default() }).unwrap();
}

#[test]
fn endpoints_come_back_as_they_were_stored_and_in_the_order_they_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(catalog.endpoints().unwrap(), []);
    let mut stored = Vec::new();
    // Made in an order that is not the order of their ids; a sequence of the last epoch.
    for (id, start) in [("ep_z", 0), ("ep_a", 7), ("ep_m", u64::MAX - 1)] {
        let number = catalog.insert_endpoint(&endpoint(id, start)).unwrap();
        stored.push(EndpointRecord { number, ..endpoint(id, start) });
    }
    assert_eq!(catalog.endpoints().unwrap(), stored);
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(catalog.endpoints().unwrap(), stored);
    let begins = [("ep_a", 8), ("ep_m", u64::MAX), ("ep_z", 1)];
    assert_eq!(lanes(&catalog).cursors, begins.map(|(id, at)| (id.to_owned(), cursor(at, 0))));
}

#[test]
fn a_number_that_ids_cannot_hold_is_not_given() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    sql(dir.path(), "INSERT INTO instance (name, value) VALUES ('endpoint_number', '16777214')");
    assert_eq!(catalog.insert_endpoint(&endpoint("ep_a", 1)).unwrap(), (1 << 24) - 1);
    for last in ["16777215", "4294967295"] {
        sql(dir.path(), &format!("UPDATE instance SET value = '{last}' WHERE name = 'endpoint_number'"));
        let fault = catalog.insert_endpoint(&endpoint("ep_b", 1)).unwrap_err();
        assert!(matches!(fault, CatalogError::Malformed { .. }), "{fault}");
    }
    assert_eq!(catalog.endpoints().unwrap().len(), 1);
}

#[test]
fn an_endpoint_that_cannot_be_stored_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let number = catalog.insert_endpoint(&endpoint("ep_a", 7)).unwrap();
    let twice = catalog.insert_endpoint(&endpoint("ep_a", 50));
    assert!(matches!(twice, Err(CatalogError::Sql(_))));
    assert_eq!(catalog.endpoints().unwrap(), [EndpointRecord { number, ..endpoint("ep_a", 7) }]);
    assert_eq!(lanes(&catalog).cursors, [("ep_a".to_owned(), cursor(8, 0))]);
}

#[test]
fn a_number_is_never_given_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut given = Vec::new();
    for round in 0..3 {
        let catalog = Catalog::open(dir.path()).unwrap();
        for at in 0..3 {
            let id = format!("ep_{round}_{at}");
            given.push(catalog.insert_endpoint(&endpoint(&id, 0)).unwrap());
            // The newest goes, then all of them.
            assert!(catalog.delete_endpoint(&id).unwrap());
        }
        given.push(catalog.insert_endpoint(&endpoint("ep_again", 0)).unwrap());
        assert!(catalog.delete_endpoint("ep_again").unwrap());
        assert_eq!(catalog.endpoints().unwrap(), []);
    }
    assert!(given.is_sorted_by(|one, next| one < next), "{given:?}");
    assert!(given.iter().all(|number| (1..1 << 24).contains(number)), "{given:?}");
}

#[test]
fn a_secret_is_in_no_debug_output() {
    let debug = format!("{:?}", endpoint("ep_a", 0));
    assert!(debug.contains("ep_a") && !debug.contains("whsec"), "{debug}");
}

#[test]
fn deleting_an_endpoint_takes_what_waits_for_it_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_lanes(&catalog);
    assert!(catalog.delete_endpoint("ep_b").unwrap());
    assert!(!catalog.delete_endpoint("ep_b").unwrap());
    assert!(!catalog.delete_endpoint("ep_never").unwrap());
    let left = lanes(&catalog);
    assert_eq!(left.cursors, ["ep_a", "ep_c"].map(|id| (id.to_owned(), cursor(10, 0))));
    assert_eq!(left.exceptions, [exception("ep_a", 10)]);
    let ids: Vec<String> = catalog.endpoints().unwrap().into_iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(ids, ["ep_a", "ep_c"]);
}

#[test]
fn a_late_save_does_not_bring_back_a_deleted_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_lanes(&catalog);
    assert!(catalog.delete_endpoint("ep_b").unwrap());
    catalog.save_lanes(&every_change()).unwrap();
    let left = lanes(&catalog);
    assert_eq!(left.cursors, [("ep_a".to_owned(), cursor(30, 2))]);
    assert_eq!(left.exceptions, [exception("ep_a", 22)]);
    // The rest of that save counts.
    assert_eq!((left.routed, left.classified), (Some(Sequence(40)), Some(Sequence(41))));
    // Nor does a late update.
    assert!(!catalog.change_endpoint("ep_b", &change("{}", 9, Some(50))).unwrap());
    assert_eq!(lanes(&catalog), left);
    // One that is made anew under the same id begins with nothing.
    catalog.insert_endpoint(&endpoint("ep_b", 60)).unwrap();
    let left = lanes(&catalog);
    assert_eq!(left.cursors[1], ("ep_b".to_owned(), cursor(61, 0)));
    assert_eq!(left.exceptions, [exception("ep_a", 22)]);
}

#[test]
fn a_save_is_kept_over_a_restart_and_the_same_save_twice_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_lanes(&catalog);
    catalog.save_lanes(&every_change()).unwrap();
    let saved = lanes(&catalog);
    let expected = Lanes {
        routed: Some(Sequence(40)),
        classified: Some(Sequence(41)),
        cursors: vec![("ep_a".to_owned(), cursor(30, 2)), ("ep_b".to_owned(), cursor(31, 0))],
        exceptions: vec![exception("ep_a", 22), exception("ep_b", 12), exception("ep_b", 23)],
    };
    assert_eq!(saved, expected);
    catalog.save_lanes(&every_change()).unwrap();
    assert_eq!(lanes(&catalog), saved);
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(lanes(&catalog), saved);
    // What is not named stays.
    catalog.save_lanes(&LaneChanges::default()).unwrap();
    assert_eq!(lanes(&catalog), saved);
}

#[test]
fn a_save_that_fails_at_any_of_its_tables_changes_nothing() {
    for refused in [
        "INSERT ON positions",
        "DELETE ON exceptions",
        "UPDATE ON lane_cursors",
        "DELETE ON lane_cursors",
        "INSERT ON exceptions",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(dir.path()).unwrap();
        with_lanes(&catalog);
        let before = lanes(&catalog);
        let body = "BEGIN SELECT RAISE(ABORT, 'refused'); END;";
        sql(dir.path(), &format!("CREATE TRIGGER refuse BEFORE {refused} {body}"));
        let saved = catalog.save_lanes(&every_change());
        assert!(matches!(saved, Err(CatalogError::Sql(_))), "{refused}: {saved:?}");
        assert_eq!(lanes(&catalog), before, "{refused}");
        sql(dir.path(), "DROP TRIGGER refuse;");
        catalog.save_lanes(&every_change()).unwrap();
        assert_eq!(lanes(&catalog).routed, Some(Sequence(40)), "{refused}");
    }
}

#[test]
fn a_delivery_that_fails_again_has_one_exception() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_lanes(&catalog);
    let again = ExceptionRecord { attempts: 2, due_at: 7, ..exception("ep_b", 12) };
    catalog.save_lanes(&LaneChanges { failed: vec![again.clone()], ..LaneChanges::default() }).unwrap();
    assert_eq!(catalog.exceptions().unwrap(), [exception("ep_a", 10), exception("ep_b", 11), again]);
    // Places that differ in one part only are places of their own.
    let one = exception("ep_b", 12);
    let others = [
        ExceptionRecord { endpoint: "ep_c".to_owned(), ..one.clone() },
        ExceptionRecord { sequence: 13, members: vec![0, 1, 255], ..one.clone() },
        ExceptionRecord { group: 9, ..one.clone() },
        ExceptionRecord { chunk: 9, ..one.clone() },
        ExceptionRecord { kind: 9, ..one.clone() },
    ];
    catalog.save_lanes(&LaneChanges { failed: others.to_vec(), ..LaneChanges::default() }).unwrap();
    let stored = catalog.exceptions().unwrap();
    assert!(stored.len() == 3 + others.len() && others.iter().all(|one| stored.contains(one)));
    for (at, over) in others.iter().enumerate() {
        catalog.save_lanes(&LaneChanges { settled: vec![place(over)], ..LaneChanges::default() }).unwrap();
        let left = catalog.exceptions().unwrap();
        assert_eq!(left.len(), 3 + others.len() - at - 1);
        assert!(!left.contains(over));
    }
}

#[test]
fn an_update_keeps_what_waits_and_a_restart_wipes_it() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_lanes(&catalog);
    let before = lanes(&catalog);
    assert!(catalog.change_endpoint("ep_b", &change("{\"a\":1}", 77, None)).unwrap());
    assert_eq!(lanes(&catalog), before);
    let changed = catalog.endpoints().unwrap().remove(1);
    let expected = EndpointRecord {
        number: changed.number,
        settings: "{\"a\":1}".to_owned(),
        secret: "whsec_new".to_owned(),
        updated_at: 77,
        ..endpoint("ep_b", 9)
    };
    assert_eq!(changed, expected);
    assert!(catalog.change_endpoint("ep_b", &change("{}", 78, Some(90))).unwrap());
    let after = lanes(&catalog);
    assert_eq!(after.exceptions, [exception("ep_a", 10)]);
    let begins = [("ep_a", 10), ("ep_b", 91), ("ep_c", 10)];
    assert_eq!(after.cursors, begins.map(|(id, at)| (id.to_owned(), cursor(at, 0))));
    // Also of a lane that had no row.
    let caught_up = vec!["ep_b".to_owned()];
    catalog.save_lanes(&LaneChanges { caught_up, ..LaneChanges::default() }).unwrap();
    assert!(catalog.change_endpoint("ep_b", &change("{}", 79, Some(95))).unwrap());
    assert_eq!(lanes(&catalog).cursors[1], ("ep_b".to_owned(), cursor(96, 0)));
}

#[test]
fn everything_is_settled_until_there_is_an_endpoint() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let everything = Sequence(u64::MAX);
    assert_eq!(catalog.settled().unwrap(), everything);
    catalog.save_lanes(&LaneChanges { routed: Some(Sequence(8)), ..LaneChanges::default() }).unwrap();
    assert_eq!(catalog.settled().unwrap(), everything);
    catalog.insert_endpoint(&endpoint("ep_a", 8)).unwrap();
    // Nothing is classified yet, so nothing may be dropped.
    assert_eq!(catalog.settled().unwrap(), Sequence::ZERO);
    catalog.save_lanes(&LaneChanges { classified: Some(Sequence(12)), ..LaneChanges::default() }).unwrap();
    assert_eq!(catalog.settled().unwrap(), Sequence(12));
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(catalog.settled().unwrap(), Sequence(12));
    assert!(catalog.delete_endpoint("ep_a").unwrap());
    assert_eq!(catalog.settled().unwrap(), everything);
}

#[test]
fn the_instance_key_is_the_first_one_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let first: [u8; 16] = std::array::from_fn(|at| u8::try_from(at * 17).unwrap());
    for offered in [first, [1; 16], [2; 16]] {
        let catalog = Catalog::open(dir.path()).unwrap();
        assert_eq!(catalog.instance_key(offered).unwrap(), first);
        assert_eq!(catalog.instance_key([3; 16]).unwrap(), first);
    }
    sql(dir.path(), "UPDATE instance SET value = 'short' WHERE name = 'id_key';");
    let malformed = Catalog::open(dir.path()).unwrap().instance_key([4; 16]);
    assert!(matches!(malformed, Err(CatalogError::Malformed { what: "id key" })), "{malformed:?}");
}

/// The tables as version 1 made them.
const VERSION_1: &str = "
CREATE TABLE organisations (id TEXT PRIMARY KEY, created_at BIGINT NOT NULL);
CREATE TABLE api_keys (
    id TEXT PRIMARY KEY, org TEXT NOT NULL, user_id TEXT, name TEXT, scopes TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE, created_at BIGINT NOT NULL
);
CREATE INDEX api_keys_by_org ON api_keys (org, created_at, id);
CREATE TABLE files (
    path TEXT PRIMARY KEY, org TEXT NOT NULL, metric TEXT NOT NULL, period TEXT NOT NULL,
    bucket BIGINT NOT NULL, bucket_bits BIGINT NOT NULL, level BIGINT NOT NULL,
    sequence_first BIGINT NOT NULL, sequence_last BIGINT NOT NULL, row_count BIGINT NOT NULL,
    byte_count BIGINT NOT NULL, user_min TEXT NOT NULL, user_max TEXT NOT NULL,
    time_min BIGINT NOT NULL, time_max BIGINT NOT NULL, block_crc32c TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE TABLE positions (name TEXT PRIMARY KEY, sequence BIGINT NOT NULL, ordering BIGINT NOT NULL);
INSERT INTO organisations VALUES ('default', 1), ('acme', 2);
INSERT INTO positions VALUES ('flushed', 44, 1000044);
PRAGMA user_version = 1;
";

/// Of this program's catalog.
const VERSION: i64 = 13;

#[test]
fn a_catalog_of_version_1_opens_as_the_present_version() {
    let dir = tempfile::tempdir().unwrap();
    sql(dir.path(), VERSION_1);
    for _ in 0..2 {
        let catalog = Catalog::open(dir.path()).unwrap();
        assert_eq!(catalog.flushed().unwrap().sequence, Sequence(44));
        assert!(catalog.has_org("acme").unwrap() && catalog.has_org("default").unwrap());
        assert_eq!(catalog.files().unwrap(), []);
        assert_eq!(catalog.endpoints().unwrap(), []);
        assert_eq!((catalog.routed().unwrap(), catalog.classified().unwrap()), (None, None));
        assert_eq!(catalog.settled().unwrap(), Sequence(u64::MAX));
    }
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(catalog.insert_endpoint(&endpoint("ep_a", 44)).unwrap(), 1);
    with_version(dir.path(), VERSION);
    // Both are of the same tables: a new catalog has nothing that this one lacks.
    let fresh = tempfile::tempdir().unwrap();
    drop(Catalog::open(fresh.path()).unwrap());
    assert_eq!(tables(dir.path()), tables(fresh.path()));
    assert_eq!(indexes(dir.path()), indexes(fresh.path()));
}

#[test]
fn a_lane_that_failed_under_version_11_fails_on_and_nobody_knows_when_it_did_last() {
    let dir = tempfile::tempdir().unwrap();
    Catalog::open(dir.path()).unwrap().insert_endpoint(&endpoint("ep_a", 9)).unwrap();
    sql(
        dir.path(),
        "DROP INDEX given_up_by_end;
         DROP TABLE disabled_unannounced;
         ALTER TABLE lane_health DROP COLUMN failed_at;
         INSERT INTO lane_health (endpoint, failing_since, paused_at) VALUES ('ep_a', 7, 9);
         PRAGMA user_version = 11;",
    );
    let catalog = Catalog::open(dir.path()).unwrap();
    let mut health = HealthRecord {
        endpoint: "ep_a".to_owned(),
        failing_since: Some(7),
        failed_at: None,
        paused_at: Some(9),
    };
    assert_eq!(catalog.lane_health().unwrap(), std::slice::from_ref(&health));
    health.failed_at = Some(8);
    let ranges = LaneRanges { health: vec![health.clone()], ..LaneRanges::default() };
    catalog.save_lanes(&LaneChanges { ranges, ..LaneChanges::default() }).unwrap();
    assert_eq!(catalog.lane_health().unwrap(), [health]);
    with_version(dir.path(), VERSION);
}

#[test]
fn what_was_given_up_under_version_12_is_announced_in_its_order_before_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    Catalog::open(dir.path()).unwrap().insert_endpoint(&endpoint("ep_a", 9)).unwrap();
    let new = indexes(dir.path());
    sql(
        dir.path(),
        "DROP INDEX given_up_by_end;
         DROP INDEX disabled_unannounced_by_time;
         DROP INDEX given_up_unannounced;
         CREATE INDEX given_up_unannounced ON given_up (endpoint) WHERE announced = 0;
         INSERT INTO given_up (endpoint, from_sequence, from_ordinal, through_sequence, through_ordinal,
             given_up_at, announced)
             VALUES ('ep_a', 10, 0, 12, 0, 7, 0), ('ep_a', 12, 0, 14, 0, 6, 0), ('ep_a', 14, 0, 16, 0, 5, 1);
         PRAGMA user_version = 12;",
    );
    let catalog = Catalog::open(dir.path()).unwrap();
    let starts = |catalog: &Catalog| -> Vec<u64> {
        catalog.unannounced(9).unwrap().iter().map(|range| range.from.sequence).collect()
    };
    assert_eq!(starts(&catalog), [12, 10]);
    let ranges = LaneRanges { removed: Some(Sequence(20)), ..LaneRanges::default() };
    catalog.save_lanes(&LaneChanges { ranges, ..LaneChanges::default() }).unwrap();
    assert_eq!(starts(&catalog), [12, 10], "those are not announced yet");
    assert_eq!(catalog.given_up("ep_a", Sequence(0), Sequence(99)).unwrap().len(), 2);
    with_version(dir.path(), VERSION);
    assert_eq!(indexes(dir.path()), new);
}

#[test]
fn a_catalog_of_a_later_version_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Catalog::open(dir.path()).unwrap());
    sql(dir.path(), &format!("PRAGMA user_version = {};", VERSION + 1));
    let opened = Catalog::open(dir.path());
    assert!(
        matches!(opened, Err(CatalogError::Version { found, known: VERSION }) if found == VERSION + 1),
        "{opened:?}"
    );
    with_version(dir.path(), VERSION + 1);
}

fn with_version(data_dir: &Path, version: i64) {
    let connection = Connection::open(data_dir.join(CATALOG_FILE)).unwrap();
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    assert_eq!(found, version);
}

/// Names of tables and their columns.
fn tables(data_dir: &Path) -> Vec<(String, String, String)> {
    let connection = Connection::open(data_dir.join(CATALOG_FILE)).unwrap();
    let columns = "SELECT tables.name, columns.name, columns.type
         FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns ORDER BY 1, 2";
    let mut statement = connection.prepare(columns).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

/// How indexes are made.
fn indexes(data_dir: &Path) -> Vec<String> {
    let connection = Connection::open(data_dir.join(CATALOG_FILE)).unwrap();
    let made = "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL ORDER BY 1";
    let mut statement = connection.prepare(made).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}
