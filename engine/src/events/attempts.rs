//! Delivery attempts on their way into the journal.
//!
//! Constraints: whoever made an attempt never waits for a disk; what waits is bounded by
//! 64 MiB, and beyond it attempts are dropped, each with all its rows, and counted, not
//! deliveries held up. Attempts of an organisation become one frame about every 100 ms, or
//! 1 MiB, and ride on the next group's sync, so under load they cost none of
//! their own. A crash loses what was not yet in a frame: a tenth of a second of the log,
//! and no delivery.
//!
//! ```text
//! dispatch threads --record--> waiting --the thread--> frames --> committer
//!                               '- full: dropped, counted, said once a minute
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex};
use systole_storage::frame::{Erased, Tombstone, encode_attempts};
use systole_storage::{AttemptRow, Sequence};

use crate::commit::{Ack, CommitError, Intake, KeptOpen, block_on_ack};

/// Memory of attempts that are not durable yet.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;
/// About how long a frame is at most, and how much waits before it is handed in at once.
const FRAME_BYTES: usize = 1024 * 1024;
/// About how much is handed in at once: acknowledgements wait for what is in their group.
const HANDED_BYTES: usize = 4 * FRAME_BYTES;
/// Rows of a frame at most.
const FRAME_ROWS: usize = 8 * 1024;
/// Rows for which there is room without asking for memory, about a megabyte: what comes
/// while attempts gather on a machine of two cores.
const ROOM_KEPT: usize = 4 * 1024;
/// How long attempts gather.
const GATHER: Duration = Duration::from_millis(100);
/// Memory of an attempt beside its texts.
const ROW_BYTES: usize = std::mem::size_of::<Waiting>() + 64;
/// Pause after the journal refused a frame.
const RETRY: Duration = Duration::from_millis(500);
/// How often it is said that attempts were dropped.
const SAY: Duration = Duration::from_secs(60);
/// How long it is known who was erased: far longer than a request that was on its way
/// then can take.
const FORGOTTEN_FOR: Duration = Duration::from_secs(3600);
/// Up to where messages of a blocked user are forgotten: also those behind the order.
const BLOCKED_THROUGH: Sequence = Sequence(u64::MAX);

/// An attempt on its way. What the rows of one request have in common they share.
pub type Row = AttemptRow<Arc<str>>;

/// Takes attempts; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct AttemptQueue {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The thread's, woken when the first attempt came, when enough wait, and to stop.
    changed: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<Waiting>,
    /// Of those that wait and of those that are being made durable.
    bytes: usize,
    waiting_bytes: usize,
    /// How often the thread took what waited, and how often it was done with that.
    taken: u64,
    done: u64,
    stopping: bool,
    /// Nobody takes any more.
    ended: bool,
    /// Users whose attempts are dropped, as far as their messages came before.
    forgotten: ForgottenUsers,
}

#[derive(Debug)]
struct Waiting {
    org: Arc<str>,
    row: Row,
    /// What it counts for.
    bytes: usize,
}

impl State {
    /// Whether everything that was recorded is durable, or was dropped.
    fn is_settled(&self) -> bool {
        self.waiting.is_empty() && self.done == self.taken
    }

    /// Takes nothing any more; what waits is dropped.
    fn end(&mut self, dropped: &AtomicU64) {
        self.ended = true;
        dropped.fetch_add(self.waiting.len() as u64, Ordering::Relaxed);
        self.waiting.clear();
        (self.bytes, self.waiting_bytes) = (0, 0);
    }
}

/// An erased user: up to where messages are theirs, and since when that is known.
#[derive(Clone, Copy, Debug)]
struct Forgotten {
    through: Sequence,
    since: Instant,
}

/// Erased users by organisation and name.
#[derive(Debug, Default)]
struct ForgottenUsers(HashMap<String, HashMap<String, Forgotten>>);

impl ForgottenUsers {
    /// Up to where messages about a user are forgotten.
    fn through(&self, org: &str, user: &str) -> Option<Sequence> {
        Some(self.0.get(org)?.get(user)?.through)
    }

    /// Whether an attempt that was made before the order is about a forgotten user.
    fn covers(&self, org: &str, row: &Row) -> bool {
        let through = row.user.as_deref().and_then(|user| self.through(org, user));
        through.is_some_and(|through| row.sequence <= through.0)
    }

    /// The same of an attempt that comes behind the order. A test has no place among the
    /// messages: it is the endpoint's, which stays, and so it is kept unless the user is
    /// blocked.
    fn covers_later(&self, org: &str, row: &Row) -> bool {
        let through = row.user.as_deref().and_then(|user| self.through(org, user));
        through.is_some_and(|through| match row.sequence {
            0 => through == BLOCKED_THROUGH,
            sequence => sequence <= through.0,
        })
    }

    fn forget(&mut self, org: &str, user: &str, through: Sequence, now: Instant) {
        let users = self.0.entry(org.to_owned()).or_default();
        let known = users.entry(user.to_owned()).or_insert(Forgotten { through, since: now });
        *known = Forgotten { through: known.through.max(through), since: now };
    }

    fn forget_old(&mut self, now: Instant) {
        self.0.retain(|_, users| {
            users.retain(|_, known| now.duration_since(known.since) < FORGOTTEN_FOR);
            !users.is_empty()
        });
    }
}

impl AttemptQueue {
    /// Takes the rows of one attempt of an organisation, all or none. Their place in the
    /// order of all is given when they are committed. Never waits; a full queue drops them.
    pub fn record(&self, org: &Arc<str>, rows: impl IntoIterator<Item = Row>) {
        let mut state = self.shared.state.lock();
        let State { waiting, forgotten, .. } = &mut *state;
        let first = waiting.len();
        for row in rows {
            if !forgotten.covers_later(org, &row) {
                let bytes = byte_len(&row, waiting[first..].last().map(|before| &before.row));
                waiting.push(Waiting { org: org.clone(), row, bytes });
            }
        }
        let taken = waiting.len() - first;
        let bytes: usize = waiting[first..].iter().map(|waiting| waiting.bytes).sum();
        if taken == 0 {
            return;
        }
        if state.ended || state.bytes + bytes > WAITING_BYTES_MAX {
            state.waiting.truncate(first);
            self.shared.dropped.fetch_add(taken as u64, Ordering::Relaxed);
            return;
        }
        state.bytes += bytes;
        let before = state.waiting_bytes;
        state.waiting_bytes += bytes;
        if before == 0 || before < FRAME_BYTES && state.waiting_bytes >= FRAME_BYTES {
            self.shared.changed.notify_all();
        }
    }

    /// Attempts that were dropped since the start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Drops attempts about erased users, those that wait and those that were on their
    /// way when the order came. What is in a frame already is for the caller to find.
    pub(crate) fn forget(&self, orders: &[Arc<Tombstone>]) {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let State { waiting, forgotten, bytes, waiting_bytes, .. } = &mut *state;
        forgotten.forget_old(now);
        for order in orders {
            let Erased::User { user, block } = &order.erased else { continue };
            // Nothing of a blocked user is kept, also what came behind the order.
            let through = if *block { BLOCKED_THROUGH } else { order.sequence };
            forgotten.forget(&order.org, user, through, now);
        }
        let before: usize = waiting.iter().map(|it| it.bytes).sum();
        waiting.retain(|it| !forgotten.covers(&it.org, &it.row));
        // What a row shared with one that went is its own now.
        for at in 0..waiting.len() {
            let of_request = |it: &&Waiting| Arc::ptr_eq(&it.row.delivery, &waiting[at].row.delivery);
            let shared = at.checked_sub(1).map(|before| &waiting[before]).filter(of_request);
            waiting[at].bytes = byte_len(&waiting[at].row, shared.map(|it| &it.row));
        }
        let gone = before - waiting.iter().map(|it| it.bytes).sum::<usize>();
        *bytes -= gone;
        *waiting_bytes -= gone;
    }

    /// Whether an order that was carried out lately covers what was committed about a user
    /// with a frame.
    pub(crate) fn has_forgotten(&self, org: &str, user: &str, sequence: Sequence) -> bool {
        let through = self.shared.state.lock().forgotten.through(org, user);
        through.is_some_and(|through| sequence <= through)
    }

    /// Waits until what was recorded before the call is durable, or cannot become so.
    pub(crate) fn settle(&self) {
        self.settle_while(|| true);
    }

    /// The same for so long at most; false if it is neither by then.
    pub(crate) fn settle_within(&self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        self.settle_while(|| Instant::now() < deadline)
    }

    fn settle_while(&self, goes_on: impl Fn() -> bool) -> bool {
        let mut state = self.shared.state.lock();
        let last = state.taken + u64::from(!state.waiting.is_empty());
        while state.done < last && !state.ended && !state.is_settled() {
            if !goes_on() {
                return false;
            }
            self.shared.changed.wait_for(&mut state, GATHER);
        }
        true
    }

    /// Makes what waits durable and ends the thread.
    pub(crate) fn stop(&self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_all();
    }
}

/// About how much memory an attempt takes, and room in a frame, but for what it shares with
/// the one before it.
fn byte_len(row: &Row, before: Option<&Row>) -> usize {
    let before = before.map(texts);
    let is_shared = |at: usize, text: &Arc<str>| {
        before.and_then(|texts| texts[at]).is_some_and(|other| Arc::ptr_eq(text, other))
    };
    let own = |(at, text): (usize, Option<&Arc<str>>)| {
        text.filter(|text| !is_shared(at, text)).map_or(0, |text| text.len())
    };
    ROW_BYTES + texts(row).into_iter().enumerate().map(own).sum::<usize>()
}

fn texts(row: &Row) -> [Option<&Arc<str>>; 9] {
    let Row { endpoint, message, delivery, event_type, url, response_headers, response_body, .. } = row;
    let always = [endpoint, message, delivery, event_type, url, response_headers, response_body];
    let [a, b, c, d, e, f, g] = always.map(Some);
    [a, b, c, d, e, f, g, row.user.as_ref(), row.error.as_ref()]
}

/// The same of each of several.
fn byte_lens(rows: &[Row]) -> impl Iterator<Item = usize> {
    rows.iter().scan(None, |before, row| Some(byte_len(row, before.replace(row))))
}

/// The state of the thread that makes frames of attempts.
pub(crate) struct AttemptWriter {
    queue: AttemptQueue,
    intake: Arc<Intake>,
    /// The committer takes frames until the last ones are made.
    _open: KeptOpen,
    /// When it was last said how many were dropped, and how many that were.
    said: (Instant, u64),
}

impl AttemptWriter {
    pub(crate) fn new(queue: AttemptQueue, intake: &Arc<Intake>) -> AttemptWriter {
        let _open = intake.keep_open();
        let before = Instant::now().checked_sub(SAY).unwrap_or_else(Instant::now);
        AttemptWriter { queue, intake: intake.clone(), _open, said: (before, 0) }
    }

    /// Runs until it is stopped and what waited is durable.
    pub(crate) fn run(mut self) {
        let mut rows = Vec::new();
        while self.gather(&mut rows) {
            let bytes = rows.iter().map(|waiting: &Waiting| waiting.bytes).sum::<usize>();
            let count = rows.len() as u64;
            let ended = match self.commit(by_org(rows.drain(..))) {
                Ok(()) => false,
                Err(error) => {
                    self.queue.shared.dropped.fetch_add(count, Ordering::Relaxed);
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        attempts = count,
                        "attempts are not logged"
                    );
                    true
                }
            };
            let mut state = self.queue.shared.state.lock();
            state.bytes -= bytes;
            state.done += 1;
            if ended {
                state.end(&self.queue.shared.dropped);
            }
            drop(state);
            self.queue.shared.changed.notify_all();
            self.say();
            if ended {
                break;
            }
            rows.shrink_to(ROOM_KEPT);
        }
        tracing::info!(dropped = self.queue.dropped(), "attempts thread stopped");
    }

    /// Takes what came within the time that attempts gather, and leaves the room of `rows`,
    /// which are none, for what comes next; false at the end.
    fn gather(&self, rows: &mut Vec<Waiting>) -> bool {
        let shared = &self.queue.shared;
        let mut state = shared.state.lock();
        while state.waiting.is_empty() {
            if state.stopping {
                state.ended = true;
                return false;
            }
            shared.changed.wait(&mut state);
        }
        let deadline = Instant::now() + GATHER;
        while state.waiting_bytes < FRAME_BYTES && !state.stopping {
            if shared.changed.wait_until(&mut state, deadline).timed_out() {
                break;
            }
        }
        state.waiting_bytes = 0;
        state.taken += 1;
        std::mem::swap(&mut state.waiting, rows);
        true
    }

    /// Makes attempts durable; tries again what the journal refused.
    fn commit(&self, by_org: BTreeMap<Arc<str>, Vec<Row>>) -> Result<(), CommitError> {
        let mut frames: Vec<(&Arc<str>, &[Row])> = by_org
            .iter()
            .flat_map(|(org, rows)| parts(rows).into_iter().map(move |part| (org, part)))
            .collect();
        while !frames.is_empty() {
            let mut bytes = 0;
            let fits = |(_, rows): &&(_, &[Row])| {
                let fits = bytes < HANDED_BYTES;
                bytes += byte_lens(rows).sum::<usize>();
                fits
            };
            let count = frames.iter().take_while(fits).count();
            let handed: Vec<_> = frames
                .drain(..count)
                .map(|(org, rows)| ((org, rows), self.intake.submit_internal(encode_attempts(org, rows))))
                .collect();
            let refused = self.refused(handed)?;
            if refused.is_empty() {
                continue;
            }
            frames.extend(refused);
            if self.queue.shared.state.lock().stopping {
                return Err(CommitError::DiskFull);
            }
            std::thread::sleep(RETRY);
        }
        Ok(())
    }

    /// The frames that were refused for now: for want of room, or of a next segment.
    fn refused<T>(&self, handed: Vec<(T, Ack)>) -> Result<Vec<T>, CommitError> {
        let mut again = Vec::new();
        for (frame, ack) in handed {
            match block_on_ack(ack) {
                Ok(_) => {}
                Err(CommitError::DiskFull) => again.push(frame),
                Err(CommitError::Failed) if !self.intake.stopping() => again.push(frame),
                Err(error) => return Err(error),
            }
        }
        Ok(again)
    }

    fn say(&mut self) {
        let dropped = self.queue.dropped();
        let (last, said) = self.said;
        if dropped > said && last.elapsed() >= SAY {
            tracing::warn!(attempts = dropped - said, "more attempts than can be logged, some were dropped");
            self.said = (Instant::now(), dropped);
        }
    }
}

fn by_org(rows: impl Iterator<Item = Waiting>) -> BTreeMap<Arc<str>, Vec<Row>> {
    let mut by_org: BTreeMap<Arc<str>, Vec<Row>> = BTreeMap::new();
    for Waiting { org, row, .. } in rows {
        by_org.entry(org).or_default().push(row);
    }
    by_org
}

/// Rows in parts of a frame each.
fn parts(rows: &[Row]) -> Vec<&[Row]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (at, row_bytes) in byte_lens(rows).enumerate() {
        bytes += row_bytes;
        if bytes > FRAME_BYTES && at > start || at - start == FRAME_ROWS {
            parts.push(&rows[start..at]);
            (start, bytes) = (at, byte_len(&rows[at], None));
        }
    }
    if start < rows.len() {
        parts.push(&rows[start..]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use systole_storage::Trigger;

    use super::*;

    fn row(user: &str, sequence: u64, body: usize) -> Row {
        AttemptRow {
            at_ms: 0,
            tie: 0,
            endpoint: "ep_1".into(),
            message: "evt_1".into(),
            delivery: "dlv_1".into(),
            sequence,
            group: 0,
            chunk: 0,
            kind: 1,
            user: Some(user.into()),
            event_type: "steps.created".into(),
            number: 1,
            trigger: Trigger::Scheduled,
            success: true,
            status_code: Some(200),
            error: None,
            duration_us: 0,
            url: "https://example.org".into(),
            response_headers: "{}".into(),
            response_body: "x".repeat(body).into(),
        }
    }

    #[test]
    fn beyond_its_bound_attempts_are_dropped_and_counted() {
        let (queue, org) = (AttemptQueue::default(), Arc::from("acme"));
        let fits = WAITING_BYTES_MAX / byte_len(&row("u_1", 1, 16_384), None);
        for _ in 0..fits + 5 {
            queue.record(&org, [row("u_1", 1, 16_384)]);
        }
        assert_eq!(queue.dropped(), 5);
        let state = queue.shared.state.lock();
        assert_eq!(state.waiting.len(), fits);
        assert!(state.bytes <= WAITING_BYTES_MAX);
    }

    #[test]
    fn an_attempt_is_taken_whole_or_not_at_all() {
        let (queue, org) = (AttemptQueue::default(), Arc::from("acme"));
        let fits = WAITING_BYTES_MAX / byte_len(&row("u_1", 1, 16_384), None);
        for _ in 1..fits {
            queue.record(&org, [row("u_1", 1, 16_384)]);
        }
        let one_too_many = (2..4).map(|sequence| row("u_1", sequence, 16_384));
        queue.record(&org, one_too_many);
        assert_eq!((queue.dropped(), queue.shared.state.lock().waiting.len()), (2, fits - 1));
        queue.record(&org, [row("u_1", 4, 16_384)]);
        assert_eq!((queue.dropped(), queue.shared.state.lock().waiting.len()), (2, fits));
        queue.record(&org, std::iter::empty());
        assert_eq!(queue.dropped(), 2, "nothing was to be taken");
    }

    #[test]
    fn what_the_events_of_one_request_share_counts_once() {
        let (queue, org) = (AttemptQueue::default(), Arc::from("acme"));
        let failed = row("u_1", 1, 16_384);
        let of_request: Vec<Row> =
            (1..=1000).map(|sequence| Row { sequence, user: Some("u_2".into()), ..failed.clone() }).collect();
        for _ in 0..10 {
            queue.record(&org, of_request.clone());
        }
        assert_eq!((queue.dropped(), queue.shared.state.lock().waiting.len()), (0, 10_000));
        assert_eq!(parts(&of_request).len(), 1);
        assert!(byte_lens(&of_request).sum::<usize>() < 1000 * (ROW_BYTES + 10) + 17_000);
    }

    #[test]
    fn what_rows_share_counts_for_those_that_are_left() {
        let (queue, org): (_, Arc<str>) = (AttemptQueue::default(), Arc::from("acme"));
        let first = row("u_1", 1, 16_384);
        let second = Row { user: Some("u_2".into()), ..first.clone() };
        let alone = byte_len(&second, None);
        queue.record(&org, [first, second]);
        queue.forget(&[order(false)]);
        let state = queue.shared.state.lock();
        assert_eq!((state.waiting.len(), state.bytes, state.waiting_bytes), (1, alone, alone));
    }

    fn order(block: bool) -> Arc<Tombstone> {
        Arc::new(Tombstone {
            id: "era_1".into(),
            org: "acme".into(),
            erased: Erased::User { user: "u_1".into(), block },
            sequence: Sequence(7),
            created_at: 0,
        })
    }

    #[test]
    fn attempts_about_a_blocked_user_are_dropped_also_of_messages_that_came_behind_the_order() {
        let (queue, org): (_, Arc<str>) = (AttemptQueue::default(), Arc::from("acme"));
        queue.record(&org, [row("u_1", 9, 0)]);
        queue.forget(&[order(true)]);
        queue.record(&org, [row("u_1", 10, 0)]);
        queue.record(&org, [row("u_2", 10, 0)]);
        let state = queue.shared.state.lock();
        let left: Vec<_> = state.waiting.iter().map(|it| it.row.user.clone().unwrap()).collect();
        assert_eq!(left, ["u_2".into()]);
    }

    #[test]
    fn attempts_about_an_erased_user_are_dropped_as_far_as_their_messages_came_before() {
        let (queue, org): (_, Arc<str>) = (AttemptQueue::default(), Arc::from("acme"));
        queue.record(&org, [row("u_1", 3, 0)]);
        queue.record(&org, [row("u_2", 3, 0)]);
        queue.forget(&[order(false)]);
        queue.record(&org, [row("u_1", 7, 0)]);
        queue.record(&org, [row("u_1", 8, 0)]);
        queue.record(&Arc::from("default"), [row("u_1", 3, 0)]);
        let state = queue.shared.state.lock();
        let left: Vec<_> =
            state.waiting.iter().map(|it| (it.row.user.clone().unwrap(), it.row.sequence)).collect();
        assert_eq!(left, [("u_2".into(), 3), ("u_1".into(), 8), ("u_1".into(), 3)]);
        let bytes: usize = state.waiting.iter().map(|it| it.bytes).sum();
        assert_eq!((state.bytes, state.waiting_bytes), (bytes, bytes));
    }

    #[test]
    fn tests_of_an_endpoint_for_an_erased_user_are_kept_from_the_order_on_unless_the_user_is_blocked() {
        for (block, kept) in [(false, 1), (true, 0)] {
            let (queue, org): (_, Arc<str>) = (AttemptQueue::default(), Arc::from("acme"));
            queue.record(&org, [row("u_1", 0, 0)]);
            queue.forget(&[order(block)]);
            assert!(queue.shared.state.lock().waiting.is_empty(), "it was made before");
            queue.record(&org, [row("u_1", 0, 0)]);
            assert_eq!(queue.shared.state.lock().waiting.len(), kept, "blocked: {block}");
        }
    }

    #[test]
    fn what_does_not_become_durable_is_waited_for_no_longer_than_told() {
        let (queue, org): (_, Arc<str>) = (AttemptQueue::default(), Arc::from("acme"));
        assert!(queue.settle_within(Duration::ZERO), "nothing waits");
        queue.record(&org, [row("u_1", 1, 0)]);
        let begun = Instant::now();
        assert!(!queue.settle_within(Duration::from_millis(50)));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        queue.shared.state.lock().end(&queue.shared.dropped);
        assert!(queue.settle_within(Duration::ZERO), "it cannot become durable");
    }

    #[test]
    fn a_frame_holds_so_many_bytes_and_rows() {
        let rows: Vec<Row> = (0..200).map(|at| row("u_1", at, 16_384)).collect();
        let of_bytes = parts(&rows);
        assert!(of_bytes.iter().all(|part| byte_lens(part).sum::<usize>() <= FRAME_BYTES));
        assert_eq!(of_bytes.concat(), rows);
        let rows = vec![row("u_1", 1, 0); FRAME_ROWS * 2 + 1];
        let of_rows = parts(&rows);
        assert!(of_rows.iter().all(|part| !part.is_empty() && part.len() <= FRAME_ROWS));
        assert_eq!(of_rows.concat(), rows);
    }
}
