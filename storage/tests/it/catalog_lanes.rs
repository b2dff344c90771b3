//! How lanes fare, their ranges and what they gave up, in the catalog.

use systole_storage::{
    BacklogRecord, Catalog, CursorRecord, EndpointChange, EndpointRecord, GivenUpRecord, HealthRecord,
    LaneChanges, LaneRanges, Sequence,
};

fn cursor(sequence: u64, ordinal: u32) -> CursorRecord {
    CursorRecord { sequence, ordinal }
}

fn endpoint(id: &str) -> EndpointRecord {
    EndpointRecord {
        id: id.to_owned(),
        number: 0,
        org: "acme".to_owned(),
        settings: "{}".to_owned(),
        secret: "whsec_x".to_owned(),
        previous: None,
        start: Sequence(3),
        created_at: 1,
        updated_at: 1,
    }
}

fn health(endpoint: &str, failing_since: Option<i64>, paused_at: Option<i64>) -> HealthRecord {
    let failed_at = failing_since.map(|since| since + 1);
    HealthRecord { endpoint: endpoint.to_owned(), failing_since, failed_at, paused_at }
}

fn backlog(endpoint: &str, number: u64, from: u64) -> BacklogRecord {
    BacklogRecord {
        endpoint: endpoint.to_owned(),
        number,
        kind: 2,
        asked_from: cursor(4, 1),
        from: cursor(from, 2),
        // A sequence of the last epoch.
        through: cursor(u64::MAX - 9, 3),
    }
}

fn given_up(endpoint: &str, from: u64, through: u64) -> GivenUpRecord {
    GivenUpRecord {
        endpoint: endpoint.to_owned(),
        from: cursor(from, 1),
        through: cursor(through, 2),
        at: 1_782_805_500_000,
        announced: false,
    }
}

fn save(catalog: &Catalog, ranges: LaneRanges) {
    catalog.save_lanes(&LaneChanges { ranges, ..LaneChanges::default() }).unwrap();
}

/// Two endpoints, each with everything.
fn with_ranges(catalog: &Catalog) {
    for id in ["ep_a", "ep_b"] {
        catalog.insert_endpoint(&endpoint(id)).unwrap();
    }
    let both = ["ep_a", "ep_b"];
    save(
        catalog,
        LaneRanges {
            health: both.map(|id| health(id, Some(7), Some(9))).to_vec(),
            backlogs: both.iter().flat_map(|id| [backlog(id, 1, 10), backlog(id, 2, 20)]).collect(),
            given_up: both.map(|id| given_up(id, 5, 8)).to_vec(),
            ..LaneRanges::default()
        },
    );
}

#[test]
fn what_lanes_save_comes_back_and_moves() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_ranges(&catalog);
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    let (a, b) = (health("ep_a", Some(7), Some(9)), health("ep_b", Some(7), Some(9)));
    assert_eq!(catalog.lane_health().unwrap(), [a, b]);
    let all = [("ep_a", 1, 10), ("ep_a", 2, 20), ("ep_b", 1, 10), ("ep_b", 2, 20)];
    assert_eq!(catalog.backlogs().unwrap(), all.map(|(id, number, from)| backlog(id, number, from)));
    let changes = LaneRanges {
        health: vec![health("ep_a", None, None), health("ep_b", Some(7), None)],
        backlogs: vec![backlog("ep_a", 1, 15)],
        finished: vec![("ep_a".to_owned(), 2), ("ep_b".to_owned(), 9)],
        ..LaneRanges::default()
    };
    assert_eq!(LaneChanges { ranges: changes.clone(), ..LaneChanges::default() }.statement_count(), 5);
    save(&catalog, changes);
    assert_eq!(catalog.lane_health().unwrap(), [health("ep_b", Some(7), None)]);
    let left = [("ep_a", 1, 15), ("ep_b", 1, 10), ("ep_b", 2, 20)];
    assert_eq!(catalog.backlogs().unwrap(), left.map(|(id, number, from)| backlog(id, number, from)));
}

#[test]
fn what_was_given_up_is_found_by_its_frames_until_they_are_gone_and_that_is_announced() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_ranges(&catalog);
    // The same again, and a range that begins where another does.
    let more = vec![given_up("ep_a", 5, 8), given_up("ep_a", 5, 30), given_up("ep_a", 20, 40)];
    save(&catalog, LaneRanges { given_up: more, ..LaneRanges::default() });
    let ends = |first: u64, last: u64| -> Vec<u64> {
        let found = catalog.given_up("ep_a", Sequence(first), Sequence(last)).unwrap();
        found.iter().map(|range| range.through.sequence).collect()
    };
    assert_eq!(ends(0, 4), Vec::<u64>::new());
    assert_eq!(ends(0, 5), [8, 30]);
    assert_eq!(ends(9, 19), [30]);
    assert_eq!(ends(30, 99), [30, 40]);
    let removed = || LaneRanges { removed: Some(Sequence(30)), ..LaneRanges::default() };
    save(&catalog, removed());
    assert_eq!(ends(0, 99), [8, 30, 40], "that is not announced yet");
    let told = |through| GivenUpRecord { announced: true, ..given_up("ep_a", 5, through) };
    save(&catalog, LaneRanges { given_up: vec![told(8), told(30)], ..removed() });
    assert_eq!(ends(0, 99), [40]);
}

#[test]
fn what_was_given_up_is_unannounced_until_that_is_noted() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_ranges(&catalog);
    let late = GivenUpRecord { at: 1_782_805_500_001, ..given_up("ep_a", 5, 9) };
    let quiet = GivenUpRecord { announced: true, ..given_up("ep_a", 6, 9) };
    save(&catalog, LaneRanges { given_up: vec![late.clone(), quiet], ..LaneRanges::default() });
    let (a, b) = (given_up("ep_a", 5, 8), given_up("ep_b", 5, 8));
    assert_eq!(catalog.unannounced(9).unwrap(), [a.clone(), b.clone(), late.clone()]);
    assert_eq!(catalog.unannounced(1).unwrap(), std::slice::from_ref(&a));
    // One that is not there, and the same range of one endpoint alone.
    catalog.mark_announced(&[("ep_a", a.from, cursor(8, 3)), ("ep_a", a.from, a.through)], &[]).unwrap();
    drop(catalog);
    let catalog = Catalog::open(dir.path()).unwrap();
    assert_eq!(catalog.unannounced(9).unwrap(), [b, late]);
    // Given up once more, it is to be announced once more.
    save(&catalog, LaneRanges { given_up: vec![a], ..LaneRanges::default() });
    assert_eq!(catalog.unannounced(9).unwrap().len(), 3);
    catalog.delete_endpoint("ep_a").unwrap();
    assert_eq!(catalog.unannounced(9).unwrap().len(), 1);
}

#[test]
fn a_lane_that_begins_anew_keeps_only_what_it_gave_up_and_a_deleted_one_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(dir.path()).unwrap();
    with_ranges(&catalog);
    catalog.save_lanes(&LaneChanges { wiped: vec!["ep_a".to_owned()], ..LaneChanges::default() }).unwrap();
    assert_eq!(catalog.lane_health().unwrap(), [health("ep_b", Some(7), Some(9))]);
    assert!(catalog.backlogs().unwrap().iter().all(|range| range.endpoint == "ep_b"));
    assert_eq!(catalog.given_up("ep_a", Sequence(0), Sequence(99)).unwrap(), [given_up("ep_a", 5, 8)]);
    let restart = Some(Sequence(50));
    let change = EndpointChange { settings: "{}", secret: "whsec_x", previous: None, updated_at: 2, restart };
    assert!(catalog.change_endpoint("ep_b", &change).unwrap());
    assert_eq!((catalog.lane_health().unwrap(), catalog.backlogs().unwrap()), (vec![], vec![]));
    for id in ["ep_a", "ep_b"] {
        catalog.delete_endpoint(id).unwrap();
        assert_eq!(catalog.given_up(id, Sequence(0), Sequence(99)).unwrap(), []);
    }
    // A save that comes late brings nothing back.
    save(
        &catalog,
        LaneRanges {
            health: vec![health("ep_a", Some(1), None)],
            backlogs: vec![backlog("ep_a", 1, 10)],
            given_up: vec![given_up("ep_a", 5, 8)],
            ..LaneRanges::default()
        },
    );
    assert_eq!((catalog.lane_health().unwrap(), catalog.backlogs().unwrap()), (vec![], vec![]));
    assert_eq!(catalog.given_up("ep_a", Sequence(0), Sequence(99)).unwrap(), []);
}
