//! `/api/v1/webhooks` and `/api/v1/events`: endpoints, the catalogue of event types,
//! and events that publishers hand in.
//!
//! A caller bound to a user makes endpoints for that user, and sees and changes only
//! those.

mod again;
mod attempts;
mod endpoints;
mod event_body;
mod event_lines;
mod events;
mod external;
mod messages;
mod rotation;
mod wish;

pub(crate) use again::{recover, replay_missing, resend, stats};
pub(crate) use attempts::{of_endpoint, of_message};
pub(crate) use endpoints::{create, delete, get, list, patch, secret, test};
pub(crate) use events::{EventTypes, publish, types};
pub(crate) use external::configure;
pub(crate) use messages::{message, messages};
pub(crate) use rotation::rotate;

use endpoints::blocking;
