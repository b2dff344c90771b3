//! Management: API keys, webhook endpoints, published events, flush and compaction on
//! demand, the registry of metrics.
//!
//! These calls read JSON under any Content-Type, as the curl lines of other systems
//! send none.

mod admin;
mod api_keys;
mod erasures;
pub(crate) mod fields;
mod page;
mod registry;
mod retention;
pub(crate) mod webhooks;

pub(crate) use admin::{compact, flush};
pub(crate) use api_keys::{create_key, delete_key, is_key_name, list_keys};
pub(crate) use erasures::{erase_range, erase_user, erasure, path_user};
pub(crate) use registry::{add_metric, registry};
pub(crate) use retention::{retention, set_retention};
