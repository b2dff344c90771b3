//! What events a commit causes, and what they say.
//!
//! Constraints: an organisation without endpoints costs a look-up a frame; what is
//! new and what changed is decided once, in commit order, and kept in the journal.
//!
//! ```text
//! journal -> classifier: `look` groups compared with what was there -> changes frame
//!         -> reader: frames and verdicts, in order -> events -> the dispatcher's router
//!         -> payload: a place -> the body, straight out of the frame
//! ```
//!
//! In reading order: [`topics`] name things, `schema` says what
//! their bodies look like and `example` makes one; `subscribed` knows which organisations
//! have endpoints; `classifier` decides; `reader` gives events to the router and to
//! lanes that lag; `payload` renders, `erased` says what it must not; `ledger` saves
//! positions; [`attempts`] brings the delivery log into the journal; `notices` publishes
//! what lanes announce; [`messages`] lists and shows events, [`again`] sends them once
//! more; [`webhooks`] is what the front end calls, with `rotation` of secrets beside it;
//! `settings` makes lanes of what the catalog keeps, and `keyring` opens secrets that it
//! holds encrypted.

pub mod again;
mod attempt_ids;
pub mod attempts;
mod classifier;
mod delivery_log;
mod erased;
mod example;
mod fields;
mod keyring;
mod ledger;
pub mod messages;
mod notices;
mod payload;
mod reader;
mod rotation;
mod schema;
mod settings;
mod subscribed;
pub mod topics;
pub mod webhooks;

pub(crate) use classifier::Classifier;
pub use delivery_log::JournalDeliveries;
pub(crate) use erased::ErasedNow;
pub(crate) use notices::{NoticePublisher, NoticeQueue, notice_queue};
pub(crate) use reader::JournalEvents;
pub(crate) use subscribed::Subscribed;
