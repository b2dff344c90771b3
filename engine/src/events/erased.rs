//! What was erased, as payloads ask it: the same question before the journal was
//! rewritten, where tombstones answer it, and behind, where empty groups do.
//!
//! An event is gone as a whole: one of whose samples some were deleted cannot be
//! repeated byte by byte. Age takes nothing from deliveries; the journal is short.

use std::sync::Arc;

use systole_storage::Store;
use systole_storage::frame::{EventFrame, Group, SamplesFrame};
use systole_storage::hidden::Hidden;

/// Asks the store's tombstones; without a store nothing is erased.
#[derive(Clone, Debug, Default)]
pub(crate) struct ErasedNow(Option<Arc<Store>>);

impl ErasedNow {
    pub(crate) fn of(store: Arc<Store>) -> ErasedNow {
        ErasedNow(Some(store))
    }

    /// Whether a published event is about an erased user.
    pub(super) fn event(&self, frame: &EventFrame) -> bool {
        self.0.as_ref().is_some_and(|store| event_is_gone(&store.hidden(), frame))
    }

    /// Whether something of the event that begins with group `first` was erased.
    pub(super) fn groups(&self, frame: &SamplesFrame, first: usize) -> bool {
        let hidden = self.0.as_ref().map(|store| store.hidden());
        frame.event_groups(first).any(|index| {
            frame.group(index).erased_rows > 0
                || hidden.as_ref().is_some_and(|hidden| group_is_gone(hidden, frame, &frame.group(index)))
        })
    }
}

/// Whether a published event is about a user whom `hidden` hides.
pub(crate) fn event_is_gone(hidden: &Hidden, frame: &EventFrame) -> bool {
    let sequence = frame.header().stamp.sequence;
    frame.user().is_some_and(|user| hidden.hides_user(frame.org(), user, sequence))
}

/// Whether `hidden` hides a sample of a group for another reason than its age.
pub(crate) fn group_is_gone(hidden: &Hidden, frame: &SamplesFrame, group: &Group<'_>) -> bool {
    let Some(hiding) = hidden.of(frame.org(), group.metric, group.user) else { return false };
    let sequence = frame.header().stamp.sequence;
    let deleted = |row: usize| {
        let time = frame.recorded_at(row);
        hiding.ranges().iter().any(|range| range.hides(time, sequence))
    };
    sequence <= hiding.through() || group.rows().any(deleted)
}
