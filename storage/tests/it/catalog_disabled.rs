//! Endpoints that were switched off, in the catalog until that is announced.

use std::path::Path;

use rusqlite::Connection;
use systole_storage::{
    CATALOG_FILE, Catalog, CatalogError, CursorRecord, DisabledRecord, EndpointChange, EndpointRecord,
    LaneChanges, Sequence,
};

const ON: &str = "{\"active\":true}";
const OFF: &str = "{\"active\":false}";

fn catalog_of(ids: &[&str]) -> (tempfile::TempDir, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    for id in ids {
        let record = EndpointRecord {
            id: (*id).to_owned(),
            number: 0,
            org: "acme".to_owned(),
            settings: ON.to_owned(),
            secret: "whsec_x".to_owned(),
            previous: None,
            start: Sequence(3),
            created_at: 1,
            updated_at: 1,
        };
        catalog.insert_endpoint(&record).unwrap();
    }
    (dir, catalog)
}

fn disabled(endpoint: &str, at: i64) -> DisabledRecord {
    DisabledRecord { endpoint: endpoint.to_owned(), reason: "failing".to_owned(), failing_since: Some(7), at }
}

/// Switches endpoints off, each at its time.
fn disable(catalog: &Catalog, endpoints: &[(&str, i64)]) {
    for (endpoint, at) in endpoints {
        assert!(catalog.disable_endpoint(OFF, Sequence(3), &disabled(endpoint, *at)).unwrap());
    }
}

fn change(catalog: &Catalog, endpoint: &str, restart: Option<Sequence>) {
    let change = EndpointChange { settings: ON, secret: "whsec_x", previous: None, updated_at: 50, restart };
    assert!(catalog.change_endpoint(endpoint, &change).unwrap());
}

fn settings(catalog: &Catalog) -> Vec<String> {
    catalog.endpoints().unwrap().into_iter().map(|endpoint| endpoint.settings).collect()
}

fn sql(data_dir: &Path, statements: &str) {
    Connection::open(data_dir.join(CATALOG_FILE)).unwrap().execute_batch(statements).unwrap();
}

#[test]
fn who_is_switched_off_is_unannounced_over_restarts_until_just_that_is_noted() {
    let (dir, catalog) = catalog_of(&["ep_a", "ep_b"]);
    let b = DisabledRecord { reason: "gone".to_owned(), failing_since: None, ..disabled("ep_b", 10) };
    disable(&catalog, &[("ep_a", 20)]);
    assert!(catalog.disable_endpoint(OFF, Sequence(3), &b).unwrap());
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(settings(&catalog), [OFF, OFF]);
    assert_eq!(catalog.unannounced_disabled(9).unwrap(), [b.clone(), disabled("ep_a", 20)]);
    assert_eq!(catalog.unannounced_disabled(1).unwrap(), std::slice::from_ref(&b));
    // What was noted is of another time, or of another endpoint.
    catalog.mark_announced(&[], &[("ep_a", 10), ("ep_b", 20), ("ep_c", 20)]).unwrap();
    assert_eq!(catalog.unannounced_disabled(9).unwrap().len(), 2);
    catalog.mark_announced(&[], &[("ep_b", 10)]).unwrap();
    assert_eq!(catalog.unannounced_disabled(9).unwrap(), [disabled("ep_a", 20)]);
    let is_due = |endpoint, at| catalog.is_unannounced_disabled(endpoint, at).unwrap();
    assert!(is_due("ep_a", 20) && !is_due("ep_a", 21) && !is_due("ep_b", 10));
}

#[test]
fn a_switch_off_is_stored_with_its_notice_or_not_at_all() {
    let (dir, catalog) = catalog_of(&["ep_a"]);
    sql(
        dir.path(),
        "CREATE TRIGGER refuse BEFORE INSERT ON disabled_unannounced
         BEGIN SELECT RAISE(ABORT, 'refused'); END;",
    );
    let refused = catalog.disable_endpoint(OFF, Sequence(3), &disabled("ep_a", 10));
    assert!(matches!(refused, Err(CatalogError::Sql(_))), "{refused:?}");
    assert_eq!(settings(&catalog), [ON]);
    sql(dir.path(), "DROP TRIGGER refuse;");
    // Twice is once, and what is stored last stands.
    disable(&catalog, &[("ep_a", 10), ("ep_a", 11)]);
    assert_eq!(settings(&catalog), [OFF]);
    assert_eq!(catalog.unannounced_disabled(9).unwrap(), [disabled("ep_a", 11)]);
}

#[test]
fn who_is_deleted_or_switched_on_again_is_not_announced() {
    let (_dir, catalog) = catalog_of(&["ep_a", "ep_b", "ep_c"]);
    disable(&catalog, &[("ep_a", 10), ("ep_b", 11), ("ep_c", 12)]);
    assert!(catalog.delete_endpoint("ep_a").unwrap());
    change(&catalog, "ep_b", Some(Sequence(9)));
    // A change that switches nothing leaves it.
    change(&catalog, "ep_c", None);
    assert_eq!(catalog.unannounced_disabled(9).unwrap(), [disabled("ep_c", 12)]);
    // A switch-off that comes late brings nothing back.
    assert!(!catalog.disable_endpoint(OFF, Sequence(3), &disabled("ep_a", 13)).unwrap());
    assert_eq!(catalog.unannounced_disabled(9).unwrap(), [disabled("ep_c", 12)]);
    assert_eq!(catalog.lane_cursors().unwrap().len(), 2);
}

#[test]
fn a_lane_that_ends_what_waits_leaves_what_is_to_be_announced() {
    let (_dir, catalog) = catalog_of(&["ep_a"]);
    disable(&catalog, &[("ep_a", 10)]);
    let begins = ("ep_a".to_owned(), CursorRecord { sequence: 4, ordinal: 0 });
    assert_eq!(catalog.lane_cursors().unwrap(), [begins]);
    let ids = vec!["ep_a".to_owned()];
    let changes = LaneChanges { wiped: ids.clone(), caught_up: ids, ..LaneChanges::default() };
    catalog.save_lanes(&changes).unwrap();
    assert_eq!(catalog.lane_cursors().unwrap(), []);
    assert_eq!(catalog.unannounced_disabled(9).unwrap(), [disabled("ep_a", 10)]);
}
