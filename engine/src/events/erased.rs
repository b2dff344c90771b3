//! What was erased, as payloads ask it: the same question before the journal was
//! rewritten, where tombstones answer it, and behind, where empty groups do.
//!
//! An event is gone as a whole: one of whose samples some were deleted cannot be
//! repeated byte by byte. Age takes nothing from deliveries; the journal is short.

use std::sync::Arc;

use systole_storage::Store;
use systole_storage::frame::{EventFrame, SamplesFrame};

/// Asks the store's tombstones; without a store nothing is erased.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErasedNow(Option<Arc<Store>>);

impl ErasedNow {
    pub(crate) fn of(store: Arc<Store>) -> ErasedNow {
        ErasedNow(Some(store))
    }

    /// Whether a published event is about an erased user.
    pub(super) fn event(&self, frame: &EventFrame) -> bool {
        self.0.as_ref().is_some_and(|store| store.hidden().hides_event(frame))
    }

    /// Whether something of the event that begins with group `first` was erased.
    pub(super) fn groups(&self, frame: &SamplesFrame, first: usize) -> bool {
        let hidden = self.0.as_ref().map(|store| store.hidden());
        frame.event_groups(first).any(|index| {
            frame.group(index).erased_rows > 0
                || hidden.as_ref().is_some_and(|hidden| hidden.hides_group(frame, &frame.group(index)))
        })
    }
}
