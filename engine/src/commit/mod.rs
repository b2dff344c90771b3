//! Submissions: encoded frames on their way to being durable and visible.
//!
//! Constraints: the ring holds a fixed number of frames and is full rather than
//! longer ([`SubmitError::Full`] answers it, 429 outside); a submission keeps its
//! share of the byte budget until it is acknowledged.
//!
//! ```text
//! request threads --push--> ring --drain--> committer --> journal (one sync)
//!       ^                                      |--> buffer, series map
//!       '---------------- Ack -----------------'
//! ```

mod committer;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::thread::Thread;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use systole_storage::journal::{AppendError, SegmentId};
use systole_storage::{Draft, Sequence};
use tokio::sync::oneshot;

use crate::budget::Permit;
use crate::flusher::FlushReply;

pub(crate) use committer::{Committer, CommitterParts};

/// Told the segment that frames go to, once those before it are sealed.
pub(crate) type SealReply = oneshot::Sender<Result<SegmentId, AppendError>>;

/// Why a batch was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Ring or buffer are full; trying again a little later helps.
    #[error("the server is taking in all it can")]
    Full,
    /// The disk is full, so that the buffer cannot be flushed.
    #[error("the disk is full")]
    DiskFull,
    /// The server is shutting down.
    #[error("the server is stopping")]
    Stopping,
    /// The journal is closed after a failed write or sync.
    #[error("the journal is closed until a restart: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
}

/// Why a batch that was taken is not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The disk is full; nothing of the batch was kept.
    #[error("the disk is full")]
    DiskFull,
    /// The journal failed. Whether the batch is durable is not known until a
    /// restart; sending it again is harmless.
    #[error("the journal is closed until a restart: {reason}")]
    Poisoned {
        /// The first failure.
        reason: String,
    },
    /// The server stopped or failed meanwhile. Whether the batch is durable is
    /// not known; sending it again is harmless.
    #[error("the server stopped before it could say whether the batch is durable")]
    Failed,
}

/// A batch is durable and visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place in the commit order.
    pub sequence: Sequence,
}

/// Resolves when a batch is durable and visible, or cannot become so. Dropping
/// it does not take the batch back.
#[derive(Debug)]
pub struct Ack(oneshot::Receiver<Result<Committed, CommitError>>);

impl Future for Ack {
    type Output = Result<Committed, CommitError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A dropped sender: the committer went away with the batch in the ring.
        Pin::new(&mut self.0).poll(context).map(|answer| answer.unwrap_or(Err(CommitError::Failed)))
    }
}

/// Waits for an acknowledgement on a thread that is none of a runtime.
#[cfg_attr(not(feature = "query"), expect(dead_code, reason = "the classifier needs queries"))]
pub(crate) fn block_on_ack(ack: Ack) -> Result<Committed, CommitError> {
    ack.0.blocking_recv().unwrap_or(Err(CommitError::Failed))
}

/// A frame in the ring with everything its acknowledgement needs.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) draft: Draft,
    pub(crate) samples: u32,
    pub(crate) submitted: Instant,
    /// Given back just before the acknowledgement; above `ack`, because a
    /// submission that is dropped drops its fields in this order. Frames of our own
    /// have none.
    pub(crate) permit: Option<Permit>,
    pub(crate) ack: oneshot::Sender<Result<Committed, CommitError>>,
}

impl Submission {
    /// A frame, and what its maker waits for.
    pub(crate) fn new(draft: Draft, samples: u32, permit: Option<Permit>) -> (Submission, Ack) {
        let (ack, answer) = oneshot::channel();
        (Submission { draft, samples, submitted: Instant::now(), permit, ack }, Ack(answer))
    }
}

/// What request threads and the committer share.
#[derive(Debug)]
pub(crate) struct Intake {
    /// Filled by request threads, drained by the committer; full is an answer.
    pub(crate) ring: ArrayQueue<Submission>,
    /// The committer's, to be woken after a push; set before the first one.
    committer: OnceLock<Thread>,
    stopping: AtomicBool,
    /// Set once the committer is gone: whoever pushes then empties the queues.
    ended: AtomicBool,
    /// Threads that may still have frames of our own when senders are refused.
    makers: AtomicUsize,
    poisoned: Mutex<Option<String>>,
    /// Memory of all buffers, as of the last commit or flush.
    pub(crate) buffer_bytes: AtomicU64,
    /// Whether the last flush failed for want of space.
    pub(crate) disk_full: AtomicBool,
    /// Frames of our own, before those of the ring; each of their makers waits for
    /// its acknowledgement, so there are at most as many as makers.
    pub(crate) internal: Mutex<Vec<Submission>>,
    /// Flushes that were asked for with [`Intake::request_flush`], taken by the
    /// committer.
    pub(crate) flush_requests: Mutex<Vec<FlushReply>>,
    /// Who waits for the current segment to be sealed; taken by the committer.
    pub(crate) seal_requests: Mutex<Vec<SealReply>>,
}

/// Keeps an intake open for frames of our own.
#[cfg(feature = "query")]
#[derive(Debug)]
pub(crate) struct KeptOpen(Arc<Intake>);

#[cfg(feature = "query")]
impl Drop for KeptOpen {
    fn drop(&mut self) {
        self.0.makers.fetch_sub(1, Ordering::AcqRel);
        self.0.wake();
    }
}

impl Intake {
    pub(crate) fn new(ring_slots: usize) -> Arc<Intake> {
        Arc::new(Intake {
            ring: ArrayQueue::new(ring_slots.max(1)),
            committer: OnceLock::new(),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            makers: AtomicUsize::new(0),
            poisoned: Mutex::new(None),
            buffer_bytes: AtomicU64::new(0),
            disk_full: AtomicBool::new(false),
            internal: Mutex::default(),
            flush_requests: Mutex::default(),
            seal_requests: Mutex::default(),
        })
    }

    pub(crate) fn submit(
        &self,
        draft: Draft,
        samples: u32,
        permit: Permit,
        buffer_bytes_max: u64,
    ) -> Result<Ack, SubmitError> {
        let (submission, ack) = Submission::new(draft, samples, Some(permit));
        self.offer(submission, buffer_bytes_max).map_err(|(fault, _)| fault)?;
        Ok(ack)
    }

    /// Hands in a submission, or gives it back with the reason.
    pub(crate) fn offer(
        &self,
        submission: Submission,
        buffer_bytes_max: u64,
    ) -> Result<(), (SubmitError, Submission)> {
        if let Err(fault) = self.check(buffer_bytes_max) {
            return Err((fault, submission));
        }
        self.ring.push(submission).map_err(|submission| (SubmitError::Full, submission))?;
        self.pushed();
        Ok(())
    }

    /// Hands in a frame of our own: never refused because of what senders do.
    #[cfg_attr(not(any(feature = "query", test)), expect(dead_code, reason = "the classifier needs queries"))]
    pub(crate) fn submit_internal(&self, draft: Draft) -> Ack {
        let (submission, ack) = Submission::new(draft, 0, None);
        self.internal.lock().push(submission);
        self.pushed();
        ack
    }

    /// Asks the committer for a flush; dropping `reply` is the answer of one that
    /// is gone.
    pub(crate) fn request_flush(&self, reply: FlushReply) {
        self.flush_requests.lock().push(reply);
        self.pushed();
    }

    /// Asks the committer to seal the journal's current segment; dropping `reply` is the
    /// answer of one that is gone.
    #[cfg_attr(not(any(feature = "query", test)), expect(dead_code, reason = "erasures need queries"))]
    pub(crate) fn request_seal(&self, reply: SealReply) {
        self.seal_requests.lock().push(reply);
        self.pushed();
    }

    /// The committer is gone: what waits is answered by being dropped, and so is
    /// what is pushed from now on.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.empty();
    }

    fn pushed(&self) {
        // Pairs with the fence in `end`: either `end` finds what was pushed, or
        // this load finds that it came too late.
        fence(Ordering::SeqCst);
        if self.ended.load(Ordering::Relaxed) {
            self.empty();
        } else {
            self.wake();
        }
    }

    fn empty(&self) {
        self.internal.lock().clear();
        while self.ring.pop().is_some() {}
        self.flush_requests.lock().clear();
        self.seal_requests.lock().clear();
    }

    fn check(&self, buffer_bytes_max: u64) -> Result<(), SubmitError> {
        if self.stopping() {
            return Err(self
                .poison()
                .map_or(SubmitError::Stopping, |reason| SubmitError::Poisoned { reason }));
        }
        if self.buffer_bytes.load(Ordering::Relaxed) >= buffer_bytes_max {
            let full = self.disk_full.load(Ordering::Relaxed);
            return Err(if full { SubmitError::DiskFull } else { SubmitError::Full });
        }
        Ok(())
    }

    /// Whether more than half of the ring is taken.
    pub(crate) fn is_half_full(&self) -> bool {
        self.ring.len() * 2 > self.ring.capacity()
    }

    pub(crate) fn attach(&self, committer: Thread) {
        self.committer.set(committer).expect("one committer");
    }

    pub(crate) fn wake(&self) {
        if let Some(thread) = self.committer.get() {
            thread.unpark();
        }
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Has the committer take frames of our own, also when it is told to stop, until what
    /// is returned is dropped.
    #[cfg(feature = "query")]
    pub(crate) fn keep_open(self: &Arc<Intake>) -> KeptOpen {
        self.makers.fetch_add(1, Ordering::AcqRel);
        KeptOpen(self.clone())
    }

    /// Whether nothing more comes once the queues are empty.
    pub(crate) fn may_end(&self) -> bool {
        self.stopping() && (self.makers.load(Ordering::Acquire) == 0 || self.poison().is_some())
    }

    /// Refuses everything from now on, for this reason.
    pub(crate) fn set_poison(&self, reason: &str) {
        self.poisoned.lock().get_or_insert_with(|| reason.to_owned());
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn poison(&self) -> Option<String> {
        self.poisoned.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::task::Waker;
    use std::thread;

    use systole_storage::frame::Kind;

    use super::*;
    use crate::budget::ByteBudget;

    const FRAME_BYTES: usize = 100;

    fn submit(intake: &Intake, budget: &Arc<ByteBudget>) -> Ack {
        let draft = Draft::build(Kind::Samples, false, 0, |_| {});
        intake.submit(draft, 1, budget.try_take(FRAME_BYTES).unwrap(), u64::MAX).unwrap()
    }

    fn answer(mut ack: Ack) -> Poll<Result<Committed, CommitError>> {
        Pin::new(&mut ack).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn batches_before_and_after_the_end_are_answered_and_give_their_bytes_back() {
        let (intake, budget) = (Intake::new(8), ByteBudget::new(1000));
        let early = submit(&intake, &budget);
        assert_eq!(budget.used(), FRAME_BYTES);
        intake.end();
        let late = submit(&intake, &budget);
        assert_eq!(budget.used(), 0);
        for ack in [early, late] {
            assert_eq!(answer(ack), Poll::Ready(Err(CommitError::Failed)));
        }
    }

    #[test]
    fn what_finds_no_room_comes_back_with_its_bytes_and_can_be_offered_again() {
        let (intake, budget) = (Intake::new(1), ByteBudget::new(1000));
        let first = submit(&intake, &budget);
        let draft = Draft::build(Kind::Event, false, 0, |_| {});
        let (submission, second) = Submission::new(draft, 0, budget.try_take(FRAME_BYTES));
        let (fault, submission) = intake.offer(submission, u64::MAX).unwrap_err();
        assert_eq!((fault, budget.used()), (SubmitError::Full, 2 * FRAME_BYTES));
        drop(intake.ring.pop());
        intake.offer(submission, u64::MAX).unwrap();
        intake.end();
        assert_eq!(budget.used(), 0);
        for ack in [first, second] {
            assert_eq!(answer(ack), Poll::Ready(Err(CommitError::Failed)));
        }
    }

    #[test]
    fn flushes_asked_for_before_and_after_the_end_are_answered() {
        let intake = Intake::new(8);
        let (early, mut early_report) = oneshot::channel();
        let (late, mut late_report) = oneshot::channel();
        intake.request_flush(early);
        assert_eq!(early_report.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        intake.end();
        intake.request_flush(late);
        for report in [&mut early_report, &mut late_report] {
            assert_eq!(report.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        }
    }

    #[test]
    fn nothing_is_left_behind_whenever_the_end_comes() {
        for _ in 0..500 {
            let (intake, budget) = (Intake::new(8), ByteBudget::new(1000));
            let (reply, mut report) = oneshot::channel();
            let together = Barrier::new(2);
            let ack = thread::scope(|scope| {
                let pushing = scope.spawn(|| {
                    together.wait();
                    intake.request_flush(reply);
                    submit(&intake, &budget)
                });
                together.wait();
                intake.end();
                pushing.join().unwrap()
            });
            assert_eq!(answer(ack), Poll::Ready(Err(CommitError::Failed)));
            assert_eq!(report.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        }
    }
}
