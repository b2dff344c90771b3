//! The committer: the one thread that decides the order.
//!
//! It drains the ring into a group, gives each frame its sequence and ordering,
//! marks its groups, has the journal write and sync them at once, publishes them
//! and acknowledges. The next group gathers in the ring while the disk works. It
//! reads no file but for when the current segment began, once a segment.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use systole_storage::frame::{Frame, Kind, Stamp};
use systole_storage::journal::{AppendError, JournalWriter, Log, SealedSegment, SegmentId};
use systole_storage::series::SeriesName;
use systole_storage::{Sequence, Store};

use super::{CommitError, Committed, Intake, Submission};
use crate::budget::Permit;
use crate::flusher::{FlushReply, Job};
use crate::stats::Counters;

/// Frames written at once: as many as the kernel takes slices in one call.
const GROUP_FRAMES_MAX: usize = 1024;
/// Bytes written at once, so that no acknowledgement waits for much more than
/// a disk needs for these.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Journal bytes that count as one byte of buffer: a buffer of samples is about as
/// long as their frames, so only other frames make a difference.
const JOURNAL_PER_BUFFER: usize = 2;
/// How long the committer sleeps without being woken.
const IDLE: Duration = Duration::from_millis(500);
/// A segment with so much of its length in it is sealed after an eighth of the time that
/// payloads are kept; one with less after that time.
const FILLED_PART: u64 = 8;
const SEALS_A_RETENTION: u32 = 8;
/// Least time that a segment is filled before it is sealed by its age.
const SEAL_MIN: Duration = Duration::from_hours(1);
/// Pause after it could not be sealed.
const SEAL_AGAIN: Duration = Duration::from_secs(300);

/// How long one segment that was dropped is given to make room for a flush: the longest
/// pause between two tries of one.
const RELIEF: Duration = Duration::from_secs(15);

/// What a committer is made of.
pub(crate) struct CommitterParts {
    pub(crate) store: Arc<Store>,
    pub(crate) writer: JournalWriter,
    /// Told of each group, for those that read along.
    pub(crate) log: Arc<Log>,
    /// Up to where nobody reads the journal any more.
    pub(crate) floor: Box<dyn Fn() -> Sequence + Send>,
    /// Bytes of journal from which frames are dropped though somebody still reads.
    pub(crate) retention_bytes: u64,
    /// How long payloads stay that nobody waits for; `None` while nobody may ask for
    /// them again.
    pub(crate) retention: Box<dyn Fn() -> Option<Duration> + Send>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) counters: Arc<Counters>,
    /// To the flush thread. Unbounded, but a buffer is frozen only when no other
    /// is waiting, or when an operator asks.
    pub(crate) flushes: mpsc::Sender<Job>,
    pub(crate) flush_bytes: usize,
    pub(crate) flush_interval: Duration,
    pub(crate) last: Sequence,
    pub(crate) ordering: u64,
}

/// The state of the committer's thread.
pub(crate) struct Committer {
    parts: CommitterParts,
    /// The last sequence that is durable.
    synced: Sequence,
    /// When the active buffer got its first frame.
    filling_since: Option<Instant>,
    /// The last group found no room: payloads that are kept for deliveries go first.
    cramped: bool,
    /// When a segment was dropped last so that a flush finds room.
    relieved: Option<Instant>,
    /// Journal bytes since the active buffer was new.
    filled_bytes: usize,
    /// The segment before the current one, and when the first frame of that was committed, if
    /// somebody looked; microseconds since 1970.
    filled: (Option<SegmentId>, Option<i64>),
    tried_to_seal: Option<Instant>,
    group: Vec<Submission>,
    frames: Vec<Vec<u8>>,
}

impl Committer {
    pub(crate) fn new(parts: CommitterParts) -> Committer {
        let synced = parts.last;
        let replayed = parts.store.snapshot().active.byte_len() > 0;
        Committer {
            parts,
            synced,
            filling_since: replayed.then(Instant::now),
            filled_bytes: 0,
            filled: (None, None),
            tried_to_seal: None,
            cramped: false,
            relieved: None,
            group: Vec::new(),
            frames: Vec::new(),
        }
    }

    /// Runs until the intake stops and the ring is empty.
    pub(crate) fn run(mut self) {
        loop {
            self.gather();
            if !self.group.is_empty() {
                self.commit();
            } else if self.parts.intake.may_end() {
                break;
            } else {
                std::thread::park_timeout(IDLE);
            }
            self.flush_if_due();
            self.seal_if_asked();
            self.trim_journal();
        }
        tracing::info!(sequence = self.synced.0, "committer stopped");
    }

    fn gather(&mut self) {
        self.group.append(&mut self.parts.intake.internal.lock());
        let mut bytes: usize = self.group.iter().map(|submission| submission.draft.frame_bytes()).sum();
        while self.group.len() < GROUP_FRAMES_MAX && bytes < GROUP_BYTES_MAX {
            let Some(submission) = self.parts.intake.ring.pop() else {
                break;
            };
            bytes += submission.draft.frame_bytes();
            self.group.push(submission);
        }
    }

    fn commit(&mut self) {
        let mut group = std::mem::take(&mut self.group);
        self.parts.ordering = self.parts.ordering.max(self.parts.log.begin_group());
        let answers = self.seal(&mut group);
        let started = Instant::now();
        let mut appended = self.append();
        // Payloads that are kept for later go before anything is refused.
        while matches!(appended, Err(AppendError::Full(_))) && self.drop_oldest() {
            appended = self.append();
        }
        self.parts.counters.fsync_seconds.observe(started.elapsed());
        match appended {
            Ok(()) => self.acknowledge(answers),
            Err(error) => self.refuse(answers, &error),
        }
        self.parts.log.end_group(self.parts.ordering);
    }

    fn append(&mut self) -> Result<(), AppendError> {
        let slices: Vec<&[u8]> = self.frames.iter().map(Vec::as_slice).collect();
        self.parts.writer.append(&slices)
    }

    /// Decides sequence, ordering and marks of the group's frames.
    fn seal(&mut self, group: &mut Vec<Submission>) -> Vec<Answer> {
        let committed_at = now_micros();
        self.frames.clear();
        let mut answers = Vec::with_capacity(group.len());
        for mut submission in group.drain(..) {
            self.parts.last = self.parts.last.next();
            self.parts.ordering = self.parts.ordering.saturating_add(1).max(committed_at.unsigned_abs());
            let stamp = Stamp {
                sequence: self.parts.last,
                synced: self.synced,
                ordering: self.parts.ordering,
                committed_at,
            };
            if submission.draft.kind() == Some(Kind::Samples) {
                let series = self.parts.store.series();
                let marked = submission.draft.mark_groups(|org, group| {
                    series.widen(&SeriesName::of(org, &group), group.earliest, group.latest)
                });
                debug_assert!(marked.is_ok(), "drafts come from the encoder");
            }
            let Submission { draft, samples, submitted, ack, permit } = submission;
            self.frames.push(draft.seal(stamp));
            answers.push(Answer { sequence: stamp.sequence, samples, submitted, ack, permit });
        }
        answers
    }

    fn acknowledge(&mut self, answers: Vec<Answer>) {
        let bytes: usize = self.frames.iter().map(Vec::len).sum();
        self.filled_bytes += bytes;
        self.publish();
        self.synced = self.parts.last;
        let counters = &self.parts.counters;
        counters.sequence.store(self.synced.0, Ordering::Relaxed);
        counters.commit_groups.fetch_add(1, Ordering::Relaxed);
        counters.journal_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        counters.journal_segments.store(self.parts.writer.sealed().len() as u64 + 1, Ordering::Relaxed);
        let requests = answers.iter().filter(|answer| answer.samples > 0).count();
        counters.batches_committed.fetch_add(requests as u64, Ordering::Relaxed);
        for answer in answers {
            counters.samples_accepted.fetch_add(u64::from(answer.samples), Ordering::Relaxed);
            counters.commit_seconds.observe(answer.submitted.elapsed());
            // Before the acknowledgement, so that who was answered finds its share
            // of the budget free.
            drop(answer.permit);
            // The sender may have gone; its samples are kept all the same.
            let _ = answer.ack.send(Ok(Committed { sequence: answer.sequence }));
        }
        self.filling_since.get_or_insert_with(Instant::now);
        let buffered: usize = self.parts.store.snapshot().buffers().map(|buffer| buffer.byte_len()).sum();
        self.parts.intake.buffer_bytes.store(buffered as u64, Ordering::Relaxed);
    }

    /// Makes the group's frames visible: samples to queries, all to those that read
    /// the journal along.
    fn publish(&mut self) {
        let parse = |bytes: Vec<u8>| Frame::parse(bytes.into()).expect("sealed by this thread a moment ago");
        let frames: Vec<Frame> = self.frames.drain(..).map(parse).collect();
        self.parts.store.publish_frames(&frames);
        self.parts.log.publish(self.parts.last, frames);
    }

    fn refuse(&mut self, answers: Vec<Answer>, error: &AppendError) {
        self.frames.clear();
        let refusal = match error {
            AppendError::Full(source) => {
                self.cramped = true;
                tracing::warn!(error = %source, batches = answers.len(), "no room for the journal, batches refused");
                CommitError::DiskFull
            }
            AppendError::NoSegment(source) => {
                tracing::error!(error = %source, batches = answers.len(), "no next journal segment, batches refused");
                CommitError::Failed
            }
            AppendError::Poisoned { reason } => {
                self.parts.intake.set_poison(reason);
                CommitError::Poisoned { reason: reason.clone() }
            }
        };
        for answer in answers {
            drop(answer.permit);
            let _ = answer.ack.send(Err(refusal.clone()));
        }
    }

    /// Freezes the active buffer when it is large or old enough, or when somebody
    /// asked; one that waits for the flush thread already is enough otherwise.
    fn flush_if_due(&mut self) {
        let requests: Vec<FlushReply> = std::mem::take(&mut *self.parts.intake.flush_requests.lock());
        let snapshot = self.parts.store.snapshot();
        // Frames without samples fill the journal, too, which only a flush lets go.
        let filled = snapshot.active.byte_len().max(self.filled_bytes / JOURNAL_PER_BUFFER);
        let large = filled >= self.parts.flush_bytes;
        let old = self.filling_since.is_some_and(|since| since.elapsed() >= self.parts.flush_interval);
        let due = snapshot.frozen.is_empty() && (large || old);
        if requests.is_empty() && !due {
            return;
        }
        let buffer = self.parts.store.freeze();
        self.filling_since = None;
        self.filled_bytes = 0;
        // The flush thread ends only after this one.
        let _ = self.parts.flushes.send(Job { buffer, replies: requests });
    }

    /// Seals the current segment for whoever writes sealed ones anew.
    fn seal_if_asked(&mut self) {
        let requests = std::mem::take(&mut *self.parts.intake.seal_requests.lock());
        for reply in requests {
            let sealed = self.parts.writer.seal();
            if let Err(AppendError::Poisoned { reason }) = &sealed {
                self.parts.intake.set_poison(reason);
            }
            // Whoever asked may have gone.
            let _ = reply.send(sealed);
        }
    }

    /// Removes segments that are flushed, needed by nobody and kept long enough, and the
    /// oldest of all when room is short.
    fn trim_journal(&mut self) {
        let needed = (self.parts.floor)();
        let retention = (self.parts.retention)();
        if let Some(age) = retention {
            self.seal_if_old(age);
        }
        let kept_since = retention
            .map(|age| now_micros().saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)));
        while let Some(oldest) = self.oldest_flushed() {
            let aged = kept_since.is_none_or(|since| oldest.committed_at < since);
            let over = oldest.last <= needed && aged && self.parts.writer.index().may_go(oldest.id);
            if !over && !self.is_pressed() {
                return;
            }
            if !self.drop_oldest() {
                return;
            }
        }
        self.cramped = false;
    }

    /// Seals the current segment once it was filled for as long as payloads are kept, or for a
    /// part of that if there is much in it: with little to take in it would be full after
    /// weeks, and go weeks later. Not where sealed ones would soon be too many: each takes its
    /// whole length of the disk.
    fn seal_if_old(&mut self, retention: Duration) {
        let writer = &self.parts.writer;
        let before = writer.sealed().last().map(|sealed| sealed.id);
        if before > self.filled.0 {
            self.filled = (before, None);
        }
        let now = now_micros();
        let Some(since) = self.filled.1.or_else(|| self.first_commit()) else { return };
        // A clock that was set back begins anew.
        let since = *self.filled.1.insert(since.min(now));
        let age = Duration::from_micros(u64::try_from(now - since).unwrap_or(0));
        let is_filled = writer.filled_bytes() >= writer.segment_bytes() / FILLED_PART;
        let most = if is_filled { retention / SEALS_A_RETENTION } else { retention };
        let segments = writer.sealed().len() as u64 + 2;
        let fits = segments.saturating_mul(writer.segment_bytes()) <= self.parts.retention_bytes / 2;
        let was_tried = self.tried_to_seal.is_some_and(|when| when.elapsed() < SEAL_AGAIN);
        if age < most.max(SEAL_MIN) || !fits || was_tried {
            return;
        }
        self.tried_to_seal = Some(Instant::now());
        match self.parts.writer.seal() {
            Ok(_) => {}
            Err(AppendError::Poisoned { reason }) => self.parts.intake.set_poison(&reason),
            Err(error) => {
                tracing::warn!(error = &error as &dyn Error, "the segment is not sealed, trying again")
            }
        }
    }

    /// When the first frame of the current segment was committed, if it has one.
    fn first_commit(&self) -> Option<i64> {
        let CommitterParts { writer, log, last, .. } = &self.parts;
        let before = writer.sealed().last().map_or(log.removed(), |sealed| sealed.last);
        if before >= *last {
            return None;
        }
        let frames = log.cursor(before).next(1).ok()?;
        frames.first().map(|frame| frame.header().stamp.committed_at)
    }

    /// The oldest segment, if it is sealed and everything in it is in files.
    fn oldest_flushed(&self) -> Option<SealedSegment> {
        let flushed = Sequence(self.parts.counters.flushed_sequence.load(Ordering::Acquire));
        self.parts.writer.sealed().first().filter(|oldest| oldest.last <= flushed).cloned()
    }

    /// Whether there is no room for what is only kept for deliveries.
    fn is_pressed(&self) -> bool {
        // One at a time, until the flush that failed was tried again.
        let relieved = self.relieved.is_some_and(|when| when.elapsed() < RELIEF);
        self.cramped
            || self.parts.writer.byte_len() > self.parts.retention_bytes
            || self.parts.intake.disk_full.load(Ordering::Relaxed) && !relieved
    }

    /// Drops the oldest segment of which everything is in files; false if there is none.
    fn drop_oldest(&mut self) -> bool {
        let Some(oldest) = self.oldest_flushed() else { return false };
        if oldest.last > (self.parts.floor)() {
            // Deliveries that still wait for it find their payload gone.
            tracing::warn!(
                sequence = oldest.last.0,
                "no room for the journal, dropping payloads that are still awaited"
            );
        }
        self.cramped = false;
        self.relieved = Some(Instant::now());
        match self.parts.writer.remove_through(oldest.last) {
            Ok(removed) => removed > 0,
            Err(error) => {
                tracing::warn!(%error, "could not remove a flushed journal segment");
                false
            }
        }
    }
}

/// A submission whose frame went to the journal.
struct Answer {
    sequence: Sequence,
    samples: u32,
    submitted: Instant,
    ack: tokio::sync::oneshot::Sender<Result<Committed, CommitError>>,
    permit: Option<Permit>,
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use systole_storage::frame::{Published, encode_published};
    use systole_storage::journal::SegmentId;
    use systole_storage::{Opened, StoreSettings};
    use tempfile::TempDir;

    use super::*;

    const SEGMENT_BYTES: u64 = 8 * 1024;

    struct Bench {
        committer: Committer,
        log: Arc<Log>,
        dir: TempDir,
    }

    impl Bench {
        fn new(retention: Option<Duration>, retention_bytes: u64) -> Bench {
            Bench::with(retention, retention_bytes, SEGMENT_BYTES)
        }

        fn with(retention: Option<Duration>, retention_bytes: u64, segment_bytes: u64) -> Bench {
            let dir = tempfile::tempdir().unwrap();
            let settings = StoreSettings {
                data_dir: dir.path().to_owned(),
                segment_bytes,
                flush_bytes: 64 << 20,
                series_bytes: 64 << 20,
            };
            let Opened { store, writer, log, last, ordering, .. } = Store::open(&settings).unwrap();
            let committer = Committer::new(CommitterParts {
                store,
                writer,
                log: log.clone(),
                floor: Box::new(|| Sequence(u64::MAX)),
                retention_bytes,
                retention: Box::new(move || retention),
                intake: Intake::new(8),
                counters: Arc::default(),
                flushes: mpsc::channel().0,
                flush_bytes: 64 << 20,
                flush_interval: Duration::from_secs(3600),
                last,
                ordering,
            });
            Bench { committer, log, dir }
        }

        /// Commits events of 2 KB, which count as flushed.
        fn commit(&mut self, events: usize) {
            let data = format!("{{\"note\":\"{}\"}}", "x".repeat(2_000));
            let event = Published {
                org: "acme",
                user: None,
                name: "check_in.created",
                id: None,
                bound: false,
                data: &data,
            };
            for _ in 0..events {
                drop(self.committer.parts.intake.submit_internal(encode_published(&event)));
                self.committer.gather();
                self.committer.commit();
            }
            let flushed = &self.committer.parts.counters.flushed_sequence;
            flushed.store(self.committer.parts.last.0, Ordering::Release);
        }

        fn index(&self) {
            let indexer = self.log.indexer(Duration::from_secs(3600));
            let indexing = thread::spawn(move || indexer.run());
            let all = || {
                let writer = &self.committer.parts.writer;
                writer.sealed().iter().all(|sealed| writer.index().may_go(sealed.id))
            };
            while !all() {
                thread::sleep(Duration::from_millis(1));
            }
            self.log.stop();
            indexing.join().unwrap();
        }

        /// Segments that are left when all that may go is gone.
        fn trimmed(&mut self) -> usize {
            self.committer.trim_journal();
            self.committer.parts.writer.sealed().len()
        }
    }

    #[test]
    fn segments_stay_for_their_time_and_until_what_outlives_them_is_durable() {
        let mut kept = Bench::new(Some(Duration::from_secs(3600)), u64::MAX);
        kept.commit(30);
        kept.index();
        assert!(kept.trimmed() > 5);
        let mut over = Bench::new(None, u64::MAX);
        over.commit(30);
        assert!(over.trimmed() > 5, "nothing is indexed yet");
        over.index();
        assert_eq!(over.trimmed(), 0);
        let mut short = Bench::new(Some(Duration::ZERO), u64::MAX);
        short.commit(30);
        short.index();
        thread::sleep(Duration::from_millis(1));
        assert_eq!(short.trimmed(), 0);
    }

    /// As if what is in the current segment had been committed so long ago.
    fn aged(bench: &mut Bench, hours: u64) -> usize {
        let age = i64::try_from(Duration::from_hours(hours).as_micros()).unwrap();
        // Whoever looks at a new segment forgets what is known of the one before.
        bench.trimmed();
        bench.committer.filled.1 = Some(now_micros() - age);
        bench.committer.tried_to_seal = None;
        bench.trimmed()
    }

    #[test]
    fn a_segment_that_is_filled_slowly_is_sealed_by_its_age_and_goes_in_time() {
        let mut quiet = Bench::new(Some(Duration::from_hours(72)), u64::MAX);
        assert_eq!(aged(&mut quiet, 100), 0, "there is nothing in it");
        quiet.commit(1);
        assert_eq!((aged(&mut quiet, 8), aged(&mut quiet, 10)), (0, 1));
        quiet.commit(1);
        assert_eq!((aged(&mut quiet, 8), aged(&mut quiet, 10)), (1, 2));
        // Without anybody who subscribes it goes by what is flushed alone.
        let mut alone = Bench::new(None, u64::MAX);
        alone.commit(1);
        assert_eq!(aged(&mut alone, 1000), 0);
    }

    #[test]
    fn a_segment_with_next_to_nothing_in_it_waits_for_the_whole_time_and_for_room() {
        let few = |retention_bytes| {
            let mut bench = Bench::with(Some(Duration::from_hours(72)), retention_bytes, 64 * SEGMENT_BYTES);
            bench.commit(1);
            bench
        };
        let mut quiet = few(u64::MAX);
        assert_eq!((aged(&mut quiet, 70), aged(&mut quiet, 73)), (0, 1));
        let mut small = few(3 * 64 * SEGMENT_BYTES);
        assert_eq!(aged(&mut small, 1000), 0, "two of them would be more than half of what may be kept");
    }

    #[test]
    fn the_age_of_a_segment_is_that_of_its_first_frame_also_after_a_start() {
        let mut bench = Bench::new(Some(Duration::from_hours(72)), u64::MAX);
        bench.commit(1);
        let first = bench.committer.first_commit().unwrap();
        bench.commit(1);
        assert_eq!(bench.committer.first_commit(), Some(first));
        assert!((now_micros() - 60_000_000..=now_micros()).contains(&first));
        bench.committer.parts.writer.seal().unwrap();
        assert_eq!(bench.committer.first_commit(), None);
    }

    #[test]
    fn whoever_asks_for_a_sealed_segment_is_told_why_there_is_none() {
        let mut bench = Bench::new(None, u64::MAX);
        bench.commit(1);
        let mut seal = || {
            let (reply, mut sealed) = tokio::sync::oneshot::channel();
            bench.committer.parts.intake.request_seal(reply);
            bench.committer.seal_if_asked();
            sealed.try_recv().unwrap()
        };
        let in_the_way = bench.dir.path().join("journal/0000000002.segment");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(matches!(seal(), Err(AppendError::NoSegment(_))));
        std::fs::remove_dir(&in_the_way).unwrap();
        assert_eq!(seal().unwrap(), SegmentId(2));
    }

    #[test]
    fn the_oldest_go_when_the_journal_is_too_long_or_the_disk_is_full() {
        let mut long = Bench::new(Some(Duration::from_secs(3600)), 4 * SEGMENT_BYTES);
        long.commit(60);
        let left = long.trimmed();
        assert!((2..=4).contains(&left), "{left}");
        assert!(long.committer.parts.writer.byte_len() <= 4 * SEGMENT_BYTES);
        assert!(long.log.removed() > Sequence::ZERO);
        let mut full = Bench::new(Some(Duration::from_secs(3600)), u64::MAX);
        full.commit(30);
        let before = full.trimmed();
        full.committer.parts.intake.disk_full.store(true, Ordering::Relaxed);
        // One, until the flush was tried again.
        assert_eq!(full.trimmed(), before - 1);
        assert_eq!(full.trimmed(), before - 1);
    }
}
