//! What the catalog keeps of an endpoint's secrets.

use std::path::Path;

use systole_storage::{
    CATALOG_FILE, Catalog, DisabledRecord, EndpointChange, EndpointRecord, PreviousSecret, Sequence,
};

fn endpoint(id: &str) -> EndpointRecord {
    EndpointRecord {
        id: id.to_owned(),
        number: 0,
        org: "acme".to_owned(),
        settings: "{}".to_owned(),
        secret: format!("plain-secret-of-{id}"),
        previous: Some(PreviousSecret { secret: format!("plain-previous-of-{id}"), until: 100 }),
        start: Sequence(9),
        created_at: 5,
        updated_at: 5,
    }
}

fn previous(until: i64) -> PreviousSecret {
    PreviousSecret { secret: "whsec_old".to_owned(), until }
}

fn only(catalog: &Catalog) -> EndpointRecord {
    catalog.endpoints().unwrap().remove(0)
}

/// Whether a text stands anywhere in the catalog's files.
fn holds(data_dir: &Path, text: &str) -> bool {
    let files = ["", "-wal", "-shm"].map(|end| data_dir.join(format!("{CATALOG_FILE}{end}")));
    files
        .iter()
        .filter_map(|file| std::fs::read(file).ok())
        .any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[test]
fn a_change_keeps_both_secrets_of_a_rotation_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    catalog.insert_endpoint(&endpoint("ep_a")).unwrap();
    let old = previous(1_000);
    let change = EndpointChange {
        settings: "{\"a\":1}",
        secret: "whsec_new",
        previous: Some(&old),
        updated_at: 7,
        restart: None,
    };
    assert!(catalog.change_endpoint("ep_a", &change).unwrap());
    assert!(!catalog.change_endpoint("ep_b", &change).unwrap());
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    let expected = EndpointRecord {
        number: 1,
        settings: "{\"a\":1}".to_owned(),
        secret: "whsec_new".to_owned(),
        previous: Some(old.clone()),
        updated_at: 7,
        ..endpoint("ep_a")
    };
    assert_eq!(only(&catalog), expected);
    // Switching off, which knows no secrets, leaves the rotation alone.
    let disabled =
        DisabledRecord { endpoint: "ep_a".to_owned(), reason: "gone".to_owned(), failing_since: None, at: 8 };
    assert!(catalog.disable_endpoint("{}", Sequence(20), &disabled).unwrap());
    assert_eq!(only(&catalog), EndpointRecord { settings: "{}".to_owned(), updated_at: 8, ..expected });
    assert!(catalog.change_endpoint("ep_a", &EndpointChange { previous: None, ..change }).unwrap());
    assert_eq!(only(&catalog).previous, None);
}

#[test]
fn a_previous_secret_is_forgotten_once_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    catalog.insert_endpoint(&EndpointRecord { previous: Some(previous(1_000)), ..endpoint("ep_a") }).unwrap();
    assert_eq!(catalog.forget_previous_secrets(999).unwrap(), 0);
    assert_eq!(only(&catalog).previous, Some(previous(1_000)));
    assert_eq!(catalog.forget_previous_secrets(1_000).unwrap(), 1);
    assert_eq!(only(&catalog).previous, None);
    assert_eq!(only(&catalog).secret, endpoint("ep_a").secret);
}

#[test]
fn secrets_that_are_kept_in_another_form_leave_no_byte_of_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    let plain = [endpoint("ep_a"), endpoint("ep_b")];
    for endpoint in &plain {
        catalog.insert_endpoint(endpoint).unwrap();
    }
    assert!(holds(dir.path(), "plain-secret-of-ep_a") && holds(dir.path(), "plain-previous-of-ep_b"));
    let mut sealed = catalog.endpoints().unwrap();
    for endpoint in &mut sealed {
        endpoint.secret = "sealed.1.AAAA".to_owned();
        endpoint.previous = Some(PreviousSecret { secret: "sealed.1.BBBB".to_owned(), until: 100 });
    }
    catalog.keep_secrets(&sealed).unwrap();
    assert_eq!(catalog.endpoints().unwrap(), sealed);
    assert!(holds(dir.path(), "sealed.1.AAAA"));
    for plain in ["plain-secret-of", "plain-previous-of"] {
        assert!(!holds(dir.path(), plain), "{plain}");
    }
}

#[test]
fn debug_shows_no_secret() {
    let record = endpoint("ep_a");
    let shown = format!("{record:?} {:?}", record.previous);
    assert!(!shown.contains("plain"), "{shown}");
}

#[cfg(unix)]
#[test]
fn a_new_catalog_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = tempfile::tempdir().unwrap();
    let _catalog = Catalog::open(dir.path()).unwrap();
    for name in ["catalog.db", "catalog.db-wal"] {
        let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is {mode:o}");
    }
}
