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
//! In reading order: [`topics`] name things; `subscribed` knows which organisations
//! have endpoints; `classifier` decides; `reader` gives events to the router and to
//! lanes that lag; `payload` renders, `erased` says what it must not;  `ledger` saves positions; [`webhooks`] is what the
//! front end calls.

mod classifier;
mod erased;
mod example;
mod ledger;
mod payload;
mod reader;
mod subscribed;
pub mod topics;
pub mod webhooks;

pub(crate) use classifier::Classifier;
pub(crate) use erased::ErasedNow;
pub(crate) use reader::JournalEvents;
pub(crate) use subscribed::Subscribed;
