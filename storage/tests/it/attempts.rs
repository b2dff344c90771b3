//! Delivery attempts: found wherever they stand, merged, aged, erased.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::Path;

use hashbrown::HashMap;
use systole_storage::attempts::{ATTEMPTS_DIR, DAYS_KEPT};
use systole_storage::frame::{AttemptsFrame, Stamp, encode_attempts, verify};
use systole_storage::{
    AttemptKey, AttemptPage, AttemptPlace, AttemptQuery, AttemptRow, AttemptStep, Sequence, Unhurried,
};

use super::fixture::{TestStore, attempt, everything_of};

const JUNE_2026: i64 = 1_782_805_500_000;
const DAY: i64 = 86_400_000;

/// Whether a query asks for a row.
type Holds = Box<dyn Fn(&AttemptRow) -> bool>;

fn every(org: &str) -> AttemptQuery {
    AttemptQuery { org: org.to_owned(), limit: usize::MAX, ..AttemptQuery::default() }
}

impl TestStore {
    /// The rows of a page.
    fn rows(&self, query: &AttemptQuery) -> Vec<AttemptRow> {
        self.store.attempts(query).unwrap().rows
    }
}

fn older_than(step: AttemptStep) -> AttemptKey {
    let AttemptStep::Older(place) = step else { panic!("{step:?} leads back") };
    place
}

/// Everything, in the order of answers.
fn newest_first(mut rows: Vec<AttemptRow>) -> Vec<AttemptRow> {
    rows.sort_by_key(|row| Reverse((row.at_ms, row.tie)));
    rows
}

/// Files of attempts on disk.
fn on_disk(data_dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![data_dir.join(ATTEMPTS_DIR)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(data_dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

fn listed(store: &TestStore) -> Vec<String> {
    store.store.catalog().attempt_files().unwrap().into_iter().map(|file| file.file.path).collect()
}

fn holds(data_dir: &Path, text: &str) -> bool {
    let files = on_disk(data_dir);
    files.iter().any(|path| {
        let bytes = std::fs::read(data_dir.join(path)).unwrap();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

/// A store with frames, small files and merged ones of two organisations and three days;
/// returns the attempts of `acme`.
fn filled(data_dir: &Path) -> (TestStore, Vec<AttemptRow>) {
    let mut store = TestStore::open(data_dir);
    let mut all = Vec::new();
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..30 {
        let rows: Vec<AttemptRow> = (0..20)
            .map(|_| {
                let endpoint = format!("ep_{}", random(5));
                let mut row = attempt(&endpoint, random(200), random(3) > 0);
                // Many of the same millisecond.
                row.at_ms = JUNE_2026 - DAY + random(3).cast_signed() * DAY + random(4).cast_signed();
                row.number = 1 + u32::try_from(random(20)).unwrap();
                row.response_body = "x".repeat(usize::try_from(random(300)).unwrap());
                row.user = row.user.filter(|_| random(4) > 0);
                row
            })
            .collect();
        all.extend(store.commit_attempts("acme", &rows));
        store.commit_attempts("default", &rows[..3]);
        if round % 3 == 1 && round < 28 {
            store.flush();
        }
        if round == 15 {
            while store.store.compact_attempts(JUNE_2026, &mut Unhurried).unwrap().is_some() {}
            store.store.bury().unwrap();
        }
    }
    (store, newest_first(all))
}

/// A frame of the first version, made by other means than ours.
const VERSION_1: &[u8] = include_bytes!("../golden/attempts-v1.frame");

#[test]
fn a_frame_of_version_1_is_written_and_read_as_ever() {
    let first = AttemptRow {
        at_ms: JUNE_2026,
        user: Some("u_1".into()),
        message: "evt_1".into(),
        delivery: "dlv_1".into(),
        event_type: "heart_rate.created".into(),
        group: 3,
        duration_us: 12_345,
        response_headers: "{\"server\":\"x\"}".into(),
        ..attempt("ep_1", 5, true)
    };
    let second = AttemptRow {
        at_ms: JUNE_2026 + 1,
        user: None,
        message: "evt_2".into(),
        delivery: "dlv_2".into(),
        event_type: "heart_rate.created".into(),
        group: 0,
        chunk: 0,
        kind: 0,
        number: 2,
        error: Some("timeout".into()),
        duration_us: 7,
        response_body: "née".into(),
        ..attempt("ep_1", 0, false)
    };
    let stamp = Stamp { sequence: Sequence(7), synced: Sequence(6), ordering: 1, committed_at: 1_000_000 };
    let mut rows = [first, second];
    assert_eq!(encode_attempts("acme", &rows).seal(stamp), VERSION_1);
    verify(VERSION_1).unwrap();
    let frame = AttemptsFrame::parse(VERSION_1.into()).unwrap();
    (rows[0].tie, rows[1].tie) = (7 << 16, 7 << 16 | 1);
    assert_eq!(frame.iter().map(|row| row.owned()).collect::<Vec<_>>(), rows);
}

#[test]
fn attempts_are_found_in_frames_and_files_by_every_condition() {
    let dir = tempfile::tempdir().unwrap();
    let (store, all) = filled(dir.path());
    assert!(listed(&store).len() > 6);
    let some = |text: &str| Some(text.to_owned());
    let base = every("acme");
    let (sent, other) = (all[7].delivery.clone(), all[9].delivery.clone());
    let queries: Vec<(AttemptQuery, Holds)> = vec![
        (base.clone(), Box::new(|_| true)),
        (
            AttemptQuery { delivery: some(&sent), from_sequence: Some(all[7].sequence), ..base.clone() },
            Box::new(move |row| row.delivery == sent),
        ),
        (
            AttemptQuery { delivery: some(&other), carried: Some(all[9].sequence), ..base.clone() },
            Box::new(move |row| row.delivery == other),
        ),
        (AttemptQuery { delivery: some("dlv_nobody"), ..base.clone() }, Box::new(|_| false)),
        (AttemptQuery { from_sequence: Some(150), ..base.clone() }, Box::new(|row| row.sequence >= 150)),
        (AttemptQuery { endpoint: some("ep_3"), ..base.clone() }, Box::new(|row| row.endpoint == "ep_3")),
        (AttemptQuery { endpoint: some("ep_9"), ..base.clone() }, Box::new(|_| false)),
        (AttemptQuery { message: some("evt_12"), ..base.clone() }, Box::new(|row| row.message == "evt_12")),
        (AttemptQuery { sequence: Some(12), ..base.clone() }, Box::new(|row| row.sequence == 12)),
        (
            AttemptQuery { user: some("u_3"), ..base.clone() },
            Box::new(|row| row.user.as_deref() == Some("u_3")),
        ),
        (AttemptQuery { success: Some(false), ..base.clone() }, Box::new(|row| !row.success)),
        (
            AttemptQuery { event_type: some("steps.created"), ..base.clone() },
            Box::new(|row| row.event_type == "steps.created"),
        ),
        (
            AttemptQuery { since_ms: Some(JUNE_2026 + 1), until_ms: Some(JUNE_2026 + 3), ..base.clone() },
            Box::new(|row| (JUNE_2026 + 1..JUNE_2026 + 3).contains(&row.at_ms)),
        ),
        (
            AttemptQuery { endpoint: some("ep_1"), success: Some(true), since_ms: Some(JUNE_2026), ..base },
            Box::new(|row| row.endpoint == "ep_1" && row.success && row.at_ms >= JUNE_2026),
        ),
    ];
    for (query, holds) in queries {
        let expected: Vec<AttemptRow> = all.iter().filter(|row| holds(row)).cloned().collect();
        assert_eq!(store.rows(&query), expected, "{query:?}");
        // Page by page nothing comes twice or not at all.
        for limit in [1, 7, 50] {
            let mut paged = Vec::new();
            let mut page = AttemptQuery { limit, ..query.clone() };
            let mut pages = 0;
            loop {
                let AttemptPage { rows, older, done, .. } = store.store.attempts(&page).unwrap();
                assert!(if done { rows.len() <= limit } else { rows.len() == limit });
                page.step = older;
                paged.extend(rows);
                pages += 1;
                if done {
                    break;
                }
            }
            assert_eq!(paged, expected, "{query:?}, {limit} a page");
            assert_eq!(pages, expected.len().div_ceil(limit).max(1), "{query:?}, {limit} a page");
        }
    }
    assert!(store.rows(&AttemptQuery { limit: 0, ..every("acme") }).is_empty());
    assert_eq!(store.rows(&every("default")).len(), 90);
    let nobody = AttemptPage { done: true, ..AttemptPage::default() };
    assert_eq!(store.store.attempts(&every("nobody")).unwrap(), nobody);
}

#[test]
fn a_page_that_looked_at_enough_ends_early_and_the_next_goes_on_there() {
    let dir = tempfile::tempdir().unwrap();
    let (store, all) = filled(dir.path());
    let whole = store.store.attempts(&every("acme")).unwrap().looked_at;
    for (endpoint, limit) in [("ep_3", 7), ("ep_3", 1_000), ("ep_9", 50)] {
        let expected: Vec<AttemptRow> = all.iter().filter(|row| row.endpoint == endpoint).cloned().collect();
        let endpoint = Some(endpoint.to_owned());
        let mut query = AttemptQuery { endpoint, limit, look_max: Some(1), ..every("acme") };
        let (mut paged, mut short) = (Vec::new(), 0);
        loop {
            let page = store.store.attempts(&query).unwrap();
            assert!(page.looked_at < whole, "{} of {whole} for one page", page.looked_at);
            paged.extend(page.rows.iter().cloned());
            if page.done {
                break;
            }
            short += usize::from(page.rows.len() < limit);
            let before = older_than(page.older.unwrap());
            assert!(query.step.is_none_or(|last| before < older_than(last)), "{before:?} is no further");
            query.step = page.older;
        }
        assert_eq!(paged, expected, "{query:?}");
        assert!(short > 2, "{short} pages of {limit} rows were short");
    }
}

#[test]
fn pages_lead_back_to_those_before_up_to_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, all) = filled(dir.path());
    for (endpoint, limit, look_max) in
        [(None, 7, None), (None, 50, Some(1)), (Some("ep_3"), 3, Some(1)), (Some("ep_9"), 5, Some(1))]
    {
        let of_endpoint = |row: &&AttemptRow| endpoint.is_none_or(|endpoint| row.endpoint == endpoint);
        let expected: Vec<AttemptRow> = all.iter().filter(of_endpoint).cloned().collect();
        let endpoint = endpoint.map(str::to_owned);
        let mut query = AttemptQuery { endpoint, limit, look_max, ..every("acme") };
        let first = store.store.attempts(&query).unwrap();
        assert_eq!(first.newer, None, "nothing leads beyond the first page");
        let mut page = first.clone();
        while !page.done {
            query.step = page.older;
            page = store.store.attempts(&query).unwrap();
        }
        // The last page, then those before it.
        let mut paged = page.rows.clone();
        while let Some(step) = page.newer {
            query.step = Some(step);
            page = store.store.attempts(&query).unwrap();
            assert!(page.rows.len() <= limit && !page.done);
            paged.splice(0..0, page.rows.iter().cloned());
        }
        assert_eq!(paged, expected, "{query:?}");
    }
    let mut query = AttemptQuery { limit: 5, ..every("acme") };
    let first = store.store.attempts(&query).unwrap();
    query.step = first.older;
    let second = store.store.attempts(&query).unwrap();
    // What came meanwhile lies before the first page.
    let late = AttemptRow { at_ms: first.rows[0].at_ms + 1, ..attempt("ep_1", 7, true) };
    let late = store.commit_attempts("acme", &[late]);
    query.step = second.newer;
    let back = store.store.attempts(&query).unwrap();
    assert_eq!(back.rows, first.rows);
    query.step = back.older;
    assert_eq!(store.rows(&query), second.rows);
    query.step = back.newer;
    let front = store.store.attempts(&query).unwrap();
    assert_eq!((front.rows, front.newer), (late, None));
}

#[test]
fn a_page_may_end_between_the_row_groups_of_a_file() {
    const ROWS: usize = 72_000;
    const OF_GROUP: usize = 64 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    for first in (0..ROWS).step_by(8_000) {
        let rows: Vec<AttemptRow> = (first..first + 8_000)
            .map(|at| AttemptRow {
                at_ms: JUNE_2026 + i64::try_from(at).unwrap(),
                ..attempt("ep_1", 1, true)
            })
            .collect();
        store.commit_attempts("acme", &rows);
    }
    store.flush();
    assert_eq!(listed(&store).len(), 1);
    let failures = AttemptQuery { success: Some(false), limit: 50, ..every("acme") };
    let whole = store.store.attempts(&failures).unwrap();
    assert!(whole.done && whole.rows.is_empty());
    let to_open = whole.looked_at - ROWS;
    let query = AttemptQuery { look_max: Some(to_open + 1), ..failures };
    let page = store.store.attempts(&query).unwrap();
    assert_eq!((page.rows.len(), page.done), (0, false));
    assert_eq!(page.looked_at, to_open + ROWS - OF_GROUP);
    let rest = JUNE_2026 + i64::try_from(OF_GROUP).unwrap();
    assert_eq!(page.older, Some(AttemptStep::Older((rest, 0))), "all before the second group is left");
    let page = store.store.attempts(&AttemptQuery { step: page.older, ..query.clone() }).unwrap();
    assert_eq!((page.older, page.done, page.looked_at), (None, true, to_open + OF_GROUP));
    // And back, which reads the second group only.
    let page = store.store.attempts(&AttemptQuery { step: page.newer, ..query }).unwrap();
    assert_eq!((page.rows.len(), page.newer, page.looked_at), (0, None, to_open + ROWS - OF_GROUP));
}

#[test]
fn what_was_sent_together_is_found_without_reading_what_was_sent_at_other_times() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let mut sent = Vec::new();
    for day in 0..20_u64 {
        let at_ms = JUNE_2026 + day.cast_signed() * DAY;
        let others = (0..50).map(|number| attempt("ep_1", 100 + 50 * day + number, true));
        // Tried on the first day and on the fourth.
        let together = (7..13).filter(|_| day == 0 || day == 3);
        let together = together.map(|sequence| AttemptRow {
            delivery: "dlv_together".to_owned(),
            ..attempt("ep_1", sequence, false)
        });
        let rows: Vec<AttemptRow> = others.chain(together).map(|row| AttemptRow { at_ms, ..row }).collect();
        let committed = store.commit_attempts("acme", &rows);
        sent.extend(committed.into_iter().filter(|row| row.delivery == "dlv_together"));
        store.flush();
    }
    let sent = newest_first(sent);
    assert_eq!((sent.len(), listed(&store).len()), (12, 20));
    let base = AttemptQuery { delivery: Some("dlv_together".to_owned()), ..every("acme") };
    let whole = store.store.attempts(&base).unwrap();
    assert_eq!(whole.rows, sent);
    // The first, as of an id, and another, as of one that was cut anew.
    for query in [
        AttemptQuery { carried: Some(7), from_sequence: Some(7), ..base.clone() },
        AttemptQuery { carried: Some(9), ..base.clone() },
    ] {
        let page = store.store.attempts(&query).unwrap();
        assert_eq!((page.rows, page.done), (sent.clone(), true), "{query:?}");
        assert!(4 * page.looked_at < whole.looked_at, "{} of {}", page.looked_at, whole.looked_at);
    }
    // Who may see one of them only, and pages.
    let of_user = AttemptQuery { carried: Some(7), user: Some("u_5".to_owned()), ..base.clone() };
    let expected: Vec<AttemptRow> = sent.iter().filter(|row| row.sequence == 12).cloned().collect();
    assert_eq!((store.rows(&of_user), expected.len()), (expected, 2));
    let mut query = AttemptQuery { carried: Some(7), limit: 5, ..base.clone() };
    let mut paged = Vec::new();
    for _ in 0..3 {
        let page = store.store.attempts(&query).unwrap();
        paged.extend(page.rows);
        query.step = page.older;
    }
    assert_eq!(paged, sent);
    // Nothing leads to one that left no row, as of an erased user: the others are found.
    assert_eq!(store.rows(&AttemptQuery { carried: Some(8_000), ..base }), sent);
}

#[test]
fn attempts_of_a_test_message_are_found_in_files_of_other_messages_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let committed = store.commit_attempts(
        "acme",
        &[attempt("ep_1", 7, true), attempt("ep_1", 0, true), attempt("ep_1", 9, true)],
    );
    store.flush();
    let query = AttemptQuery { message: Some("evt_0".to_owned()), sequence: Some(0), ..every("acme") };
    assert_eq!(store.rows(&query), committed[1..2]);
}

#[test]
fn a_message_succeeded_if_any_attempt_of_it_did() {
    let dir = tempfile::tempdir().unwrap();
    let (store, all) = filled(dir.path());
    for range in [0..=u64::MAX, 10..=20, 150..=150, 500..=900] {
        let mut expected: HashMap<AttemptPlace, bool> = HashMap::new();
        for row in all.iter().filter(|row| row.endpoint == "ep_2" && row.sequence > 0) {
            if range.contains(&row.sequence) {
                *expected.entry((row.sequence, row.group, row.chunk, row.kind)).or_default() |= row.success;
            }
        }
        for most in [usize::MAX, 40, 7, 1] {
            let found = store.store.attempt_outcomes("acme", "ep_2", range.clone(), most).unwrap();
            let is_told = |place: &AttemptPlace| place.0 <= found.through;
            let mut told = expected.clone();
            told.retain(|place, _| is_told(place));
            assert_eq!(found.by_place, told, "{range:?} {most}");
            let frames: BTreeSet<u64> = told.keys().map(|place| place.0).collect();
            assert!(told.len() <= most || frames.len() == 1, "{range:?} {most}: {}", told.len());
            assert_eq!(told.len() == expected.len(), found.through == *range.end(), "{range:?} {most}");
        }
    }
}

#[test]
fn a_restart_keeps_attempts_of_journal_and_files() {
    let dir = tempfile::tempdir().unwrap();
    let (store, all) = filled(dir.path());
    drop(store);
    let store = TestStore::open(dir.path());
    assert_eq!(store.rows(&every("acme")), all);
    assert_eq!(on_disk(dir.path()), listed(&store));
}

#[test]
fn small_files_of_a_day_are_merged_and_those_of_a_day_that_is_over_become_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let compact = |store: &TestStore, now: i64| {
        while store.store.compact_attempts(now, &mut Unhurried).unwrap().is_some() {}
        store.store.bury().unwrap();
    };
    let mut all = Vec::new();
    for round in 0..8 {
        all.extend(store.commit_attempts("acme", &[attempt("ep_1", round + 1, true)]));
        store.flush();
    }
    compact(&store, JUNE_2026);
    assert_eq!(listed(&store).len(), 8, "eight are few");
    all.extend(store.commit_attempts("acme", &[attempt("ep_1", 0, true)]));
    store.flush();
    compact(&store, JUNE_2026);
    assert_eq!(listed(&store).len(), 1);
    all.extend(store.commit_attempts("acme", &[attempt("ep_2", 3, false)]));
    store.flush();
    compact(&store, JUNE_2026);
    assert_eq!(listed(&store).len(), 2, "two are few while the day goes on");
    let before = store.store.snapshot();
    compact(&store, JUNE_2026 + DAY);
    assert_eq!(listed(&store).len(), 1);
    assert_eq!(on_disk(dir.path()).len(), 3, "somebody may still read what was replaced");
    drop(before);
    compact(&store, JUNE_2026 + DAY);
    assert_eq!(on_disk(dir.path()), listed(&store));
    assert_eq!(store.rows(&every("acme")), newest_first(all));
}

#[test]
fn files_of_days_that_are_long_over_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let old = AttemptRow { at_ms: JUNE_2026 - DAY, ..attempt("ep_1", 1, true) };
    let kept = store.commit_attempts("acme", &[attempt("ep_1", 2, true), old]);
    store.flush();
    let midnight = JUNE_2026 - JUNE_2026 % DAY;
    let end = midnight + DAYS_KEPT * DAY;
    assert!(store.store.compact_attempts(end - 1, &mut Unhurried).unwrap().is_none());
    assert!(store.store.compact_attempts(end, &mut Unhurried).unwrap().is_some());
    store.store.bury().unwrap();
    assert_eq!(store.rows(&every("acme")), kept[..1]);
    assert_eq!(on_disk(dir.path()), listed(&store));
    assert!(listed(&store)[0].contains("day=2026-06-30/"));
}

#[test]
fn attempts_about_an_erased_user_are_hidden_at_once_and_then_gone() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let about = |user: &str, sequence: u64| AttemptRow {
        user: Some(user.to_owned()),
        ..attempt("ep_1", sequence, true)
    };
    store.commit_attempts("acme", &[about("u_secret", 1), about("u_2", 1), about("u_secret", 2)]);
    store.flush();
    store.commit_attempts("acme", &[about("u_secret", 2)]);
    store.commit_attempts("default", &[about("u_secret", 1)]);
    let order = store.erase("acme", everything_of("u_secret", false));
    // Of a message from before, told afterwards; and of one that came later.
    store.commit_attempts("acme", &[about("u_secret", 3), about("u_secret", order.sequence.0 + 1)]);
    let shown = |store: &TestStore| {
        let rows = store.rows(&every("acme"));
        rows.into_iter().map(|row| (row.user.unwrap(), row.sequence)).collect::<Vec<_>>()
    };
    let left = [("u_secret".to_owned(), order.sequence.0 + 1), ("u_2".to_owned(), 1)];
    assert_eq!(shown(&store), left);
    store.flush();
    assert!(holds(dir.path(), "u_secret"));
    let mut removed = Vec::new();
    let orders = [order.clone()];
    store.store.erase_attempts(&orders, &mut Unhurried, &mut |file| removed.push(file)).unwrap();
    store.store.bury().unwrap();
    assert_eq!(removed.iter().map(|file| file.rows[0]).sum::<u64>(), 4);
    assert_eq!(removed.len(), 2);
    store.store.unhide(&orders);
    assert_eq!(shown(&store), left);
    assert_eq!(store.rows(&every("default")).len(), 1);
    assert_eq!(on_disk(dir.path()), listed(&store));
    // Nothing is left to do.
    store.store.erase_attempts(&orders, &mut Unhurried, &mut |file| panic!("{file:?}")).unwrap();
}

#[test]
fn no_byte_of_an_erased_user_is_left_in_files_of_attempts() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = TestStore::open(dir.path());
    let secret = AttemptRow { user: Some("u_secret".into()), ..attempt("ep_1", 1, true) };
    store.commit_attempts("acme", &[secret.clone(), attempt("ep_1", 1, true)]);
    store.flush();
    // A file of nothing else goes as a whole.
    store.commit_attempts("acme", &[secret]);
    store.flush();
    let order = store.erase("acme", everything_of("u_secret", true));
    store.flush();
    let mut files = 0;
    store.store.erase_attempts(&[order], &mut Unhurried, &mut |_| files += 1).unwrap();
    store.store.bury().unwrap();
    assert_eq!((files, listed(&store).len()), (2, 1));
    assert_eq!(on_disk(dir.path()), listed(&store));
    assert!(!holds(dir.path(), "u_secret") && holds(dir.path(), "u_1"));
}
