//! The classifier: one thread, close behind the head, that decides for `look` groups
//! which samples are new, which corrected and which were there already.
//!
//! It compares each group with what its series held before the group's frame, and
//! appends the verdicts as a small changes frame that rides on the next group's sync.
//! Its position moves only when they are durable. Frames of organisations without an
//! endpoint are passed over; while there is no endpoint at all, nothing is read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use systole_storage::Sequence;
use systole_storage::frame::{Change, Frame, GroupChange, Mark, SamplesFrame, Verdict, encode_changes};
use systole_storage::journal::{Log, LogCursor, LogError};
use systole_storage::query::{QueryError, QueryPool, StateQuestion, StateRow};
use systole_storage::series::SeriesName;

use super::Subscribed;
use crate::commit::{CommitError, Intake, block_on_ack};

/// Frames read at a time.
const READ_BYTES: usize = 1024 * 1024;
/// Verdicts are handed in at the latest after this long, so that events do not wait
/// for a long run of look-ups.
const HAND_IN: Duration = Duration::from_millis(20);
/// How long it waits for new frames before it looks whether it should stop.
const IDLE: Duration = Duration::from_millis(500);
/// Pause after something failed that may heal: a full disk, a busy file.
const RETRY: Duration = Duration::from_millis(500);
/// How often what a series held is asked for.
const TRIES: u32 = 3;

/// The state of the classifier's thread.
pub(crate) struct Classifier {
    log: Arc<Log>,
    queries: Arc<QueryPool>,
    intake: Arc<Intake>,
    subscribed: Arc<Subscribed>,
    cursor: LogCursor,
}

/// Why a round of classification ended early.
#[derive(Debug, thiserror::Error)]
enum Halt {
    #[error("frames cannot be read")]
    Log(#[from] LogError),
    #[error("what a series held cannot be read")]
    Query(#[from] QueryError),
    #[error("verdicts cannot be stored")]
    Commit(#[from] CommitError),
    #[error("the server is stopping")]
    Stopping,
}

impl Classifier {
    /// Begins behind `from`, which is durable; verdicts that the journal already has
    /// behind it are found first.
    pub(crate) fn new(
        log: Arc<Log>,
        queries: Arc<QueryPool>,
        intake: Arc<Intake>,
        subscribed: Arc<Subscribed>,
        from: Sequence,
    ) -> Classifier {
        let cursor = log.cursor(from);
        subscribed.set_classified(from);
        Classifier { log, queries, intake, subscribed, cursor }
    }

    /// Runs until the log stops.
    pub(crate) fn run(mut self) {
        while let Err(halt) = self.resume() {
            if !self.heals(&halt) {
                return;
            }
        }
        loop {
            match self.round() {
                Ok(true) if self.log.is_stopped() => break,
                Ok(true) => {}
                Ok(false) => {
                    self.log.wait_beyond(self.cursor.position(), IDLE);
                    if self.log.is_stopped() {
                        break;
                    }
                }
                Err(halt) => {
                    if !self.heals(&halt) {
                        break;
                    }
                    // Undecided frames are read again.
                    self.cursor.seek(self.subscribed.classified());
                }
            }
        }
        tracing::info!(sequence = self.subscribed.classified().0, "classifier stopped");
    }

    /// Passes over what a run before a crash has decided.
    fn resume(&mut self) -> Result<(), Halt> {
        let mut decided = self.subscribed.classified();
        self.cursor.seek(decided);
        loop {
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            let frames = self.cursor.next(READ_BYTES)?;
            if frames.is_empty() {
                break;
            }
            for frame in &frames {
                if let Frame::Changes(_, changes) = frame {
                    decided = decided.max(changes.through);
                }
            }
        }
        self.cursor.seek(decided);
        self.subscribed.set_classified(decided);
        Ok(())
    }

    /// Whether it makes sense to go on after a pause.
    fn heals(&mut self, halt: &Halt) -> bool {
        match halt {
            Halt::Stopping
            | Halt::Commit(CommitError::Poisoned { .. })
            | Halt::Query(QueryError::Stopping) => return false,
            Halt::Log(LogError::Gone { removed }) => {
                tracing::error!(through = removed.0, "frames were dropped before they were classified");
                self.cursor.seek(*removed);
                self.subscribed.set_classified(*removed);
                return true;
            }
            other => {
                tracing::error!(error = crate::flusher::chain(other), "classifying failed, trying again")
            }
        }
        std::thread::sleep(RETRY);
        !self.log.is_stopped()
    }

    /// Classifies some frames; false if there were none.
    fn round(&mut self) -> Result<bool, Halt> {
        // Before the question who watches: whoever began to since needs what is behind.
        let head = self.log.head();
        if !self.log.is_watched() {
            // Nobody wants to know: everything up to here is settled as it is.
            self.cursor.seek(head);
            self.subscribed.set_classified(head);
            return Ok(false);
        }
        let frames = self.cursor.next(READ_BYTES)?;
        let Some(last) = frames.last().map(Frame::sequence) else { return Ok(false) };
        let mut verdicts = Vec::new();
        let mut since = Instant::now();
        for frame in &frames {
            if let Frame::Samples(samples) = frame {
                self.classify(samples, &mut verdicts)?;
            }
            if since.elapsed() >= HAND_IN || frame.sequence() == last {
                self.hand_in(frame.sequence(), &mut verdicts)?;
                since = Instant::now();
            }
        }
        Ok(true)
    }

    fn classify(&self, frame: &SamplesFrame, verdicts: &mut Vec<GroupChange>) -> Result<(), Halt> {
        let sequence = frame.header().stamp.sequence;
        // Behind the read; see `Subscribed::since`.
        if self.subscribed.since(frame.org()).is_none_or(|since| sequence.0 <= since) {
            return Ok(());
        }
        for (group, index) in frame.groups().zip(0u32..).filter(|(group, _)| group.mark == Mark::Look) {
            if self.log.is_stopped() {
                return Err(Halt::Stopping);
            }
            let times: Vec<i64> = group.rows().map(|row| frame.recorded_at(row)).collect();
            let question = StateQuestion {
                org: frame.org(),
                series: SeriesName::of(frame.org(), &group),
                times: &times,
                before: sequence,
            };
            let mut changes = vec![Change::Created; times.len()];
            for was in self.before(&question)? {
                let row = group.first + was.index;
                let same = was.value.to_bits() == frame.value(row).to_bits()
                    && was.zone_minutes == frame.zone(row)
                    && was.ended_at == frame.ended_at(row);
                changes[was.index] = if same { Change::Unchanged } else { Change::Updated };
            }
            let rows = u32::try_from(changes.len()).expect("a frame is at most 64 MiB");
            verdicts.push(GroupChange { sequence, group: index, rows, verdict: Verdict::of(&changes) });
        }
        Ok(())
    }

    /// What was there before; nothing, if that cannot be read after some tries: to
    /// tell a subscriber twice is better than not at all, or than to keep everybody
    /// waiting.
    fn before(&self, question: &StateQuestion<'_>) -> Result<Vec<StateRow>, Halt> {
        for attempt in 1.. {
            match self.queries.state_before(question) {
                Ok(rows) => return Ok(rows),
                Err(QueryError::Stopping) => return Err(Halt::Stopping),
                Err(error) if attempt < TRIES => {
                    let error = crate::flusher::chain(&error);
                    tracing::warn!(error, "what a series held cannot be read, trying again");
                    std::thread::sleep(RETRY);
                }
                Err(error) => {
                    let (error, sequence) = (crate::flusher::chain(&error), question.before.0);
                    tracing::error!(error, sequence, "what a series held cannot be read; all counts as new");
                    break;
                }
            }
        }
        Ok(Vec::new())
    }

    /// Makes verdicts durable and moves the position over them.
    fn hand_in(&self, through: Sequence, verdicts: &mut Vec<GroupChange>) -> Result<(), Halt> {
        if !verdicts.is_empty() {
            let draft = encode_changes(through, verdicts);
            block_on_ack(self.intake.submit_internal(draft))?;
            verdicts.clear();
        }
        self.subscribed.set_classified(through);
        Ok(())
    }
}
