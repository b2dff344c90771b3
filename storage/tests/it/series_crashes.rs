//! Checkpoints on a disk that crashes, fails or is full at each operation.

use systole_storage::Sequence;

use super::series::TestMap;
use super::simulated_disk::Fault;

const USERS: u64 = 400;

/// A change, by its sequence.
#[derive(Clone, Copy)]
enum Change {
    Put { user: u64, recorded_at: i64 },
    Forget { user: u64 },
}

/// What happened, in order; the sequence is the place, from 1.
fn history() -> Vec<Change> {
    let put = |user, recorded_at| Change::Put { user, recorded_at };
    let first = (0..USERS).map(|user| put(user, 10));
    let forgotten = (0..USERS).step_by(7).map(|user| Change::Forget { user });
    let second = (0..USERS).step_by(3).map(|user| put(user, 5 + (user as i64 % 2) * 20));
    first.chain(forgotten).chain(second).collect()
}

fn apply(map: &TestMap, history: &[Change], from: usize) {
    for (sequence, change) in (from as u64 + 1..).zip(&history[from..]) {
        match *change {
            Change::Put { user, recorded_at } => {
                map.put(&format!("u_{user}"), "steps", recorded_at, sequence);
            }
            Change::Forget { user } => map.map.forget("default", &format!("u_{user}"), Sequence(sequence)),
        }
    }
}

/// Brings in what is behind the map's position, as files and journal would, and
/// compares every user.
fn check(map: &TestMap, history: &[Change], what: &str) {
    apply(map, history, map.map.position().0 as usize);
    for user in 0..USERS {
        let mut newest: Option<(i64, u64)> = None;
        for (sequence, change) in (1..).zip(history) {
            match *change {
                Change::Put { user: of, recorded_at } if of == user => {
                    newest = newest.max(Some((recorded_at, sequence)));
                }
                Change::Forget { user: of } if of == user => newest = None,
                _ => {}
            }
        }
        let expected: Vec<_> =
            newest.iter().map(|&(at, sequence)| ("steps".to_owned(), at, sequence as f64)).collect();
        assert_eq!(map.latest(&format!("u_{user}")), expected, "user {user}, {what}");
    }
}

/// A map with a base and a delta, and changes that are in neither.
fn begun(bytes_max: usize, history: &[Change]) -> TestMap {
    let map = TestMap::new(bytes_max);
    apply(&map, &history[..USERS as usize], 0);
    map.map.checkpoint(Sequence(USERS), false).unwrap();
    apply(&map, &history[..USERS as usize + 10], USERS as usize);
    map.map.checkpoint(Sequence(USERS + 10), false).unwrap();
    apply(&map, history, USERS as usize + 10);
    map
}

fn operations(history: &[Change], rewrite: bool) -> usize {
    let map = begun(0, history);
    let before = map.disk.operations();
    map.map.checkpoint(Sequence(history.len() as u64), rewrite).unwrap();
    map.disk.operations() - before
}

#[test]
fn a_crash_at_any_operation_of_a_checkpoint_leaves_a_set_that_is_whole() {
    let history = history();
    for rewrite in [false, true] {
        let operations = operations(&history, rewrite);
        assert!(operations >= 6, "{operations}");
        for at in 0..operations {
            let what = format!("crash at {at} of {operations}, rewrite {rewrite}");
            let map = begun(if at % 2 == 0 { 0 } else { 1 << 30 }, &history);
            map.disk.fault_at(at, Fault::Crash);
            // What is removed after the transaction may fail; that is no failure.
            let _ = map.map.checkpoint(Sequence(history.len() as u64), rewrite);
            let disk = map.disk.after_power_loss(at as u64);
            let map = map.reopen(disk);
            assert_eq!(map.files(), map.listed(), "{what}");
            assert!(map.map.position() >= Sequence(USERS + 10), "{what}");
            check(&map, &history, &what);
        }
    }
}

#[test]
fn a_failure_at_any_operation_of_a_checkpoint_is_made_up_for_by_the_next() {
    let history = history();
    let last = Sequence(history.len() as u64);
    for rewrite in [false, true] {
        let operations = operations(&history, rewrite);
        for at in 0..operations {
            for fault in [Fault::Fail, Fault::Full] {
                let what = format!("{fault:?} at {at} of {operations}, rewrite {rewrite}");
                let map = begun(0, &history);
                map.disk.fault_at(at, fault);
                let failed = map.map.checkpoint(last, rewrite);
                if let Err(error) = &failed {
                    assert_eq!(error.is_full(), fault == Fault::Full, "{what}");
                }
                check(&map, &history, &what);
                map.map.checkpoint(last, rewrite).unwrap();
                assert_eq!(map.files(), map.listed(), "{what}");
                let disk = map.disk.after_power_loss(3);
                let map = map.reopen(disk);
                assert_eq!(map.map.position(), last, "{what}");
                check(&map, &history, &what);
            }
        }
    }
}
