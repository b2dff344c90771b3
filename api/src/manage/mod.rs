//! Management: API keys, webhook endpoints, published events, flush and
//! compaction on demand,
//! the listing of the registry.
//!
//! These calls read JSON under any Content-Type, as the curl lines of other systems
//! send none.

mod admin;
mod api_keys;
mod fields;
mod page;
mod raw;
mod registry;
pub(crate) mod webhooks;

pub(crate) use admin::{compact, flush};
pub(crate) use api_keys::{create_key, delete_key, is_key_name, list_keys};
pub(crate) use registry::registry;
