//! Systole's front end: the server that speaks HTTP, and the command line.
//!
//! It knows routes, callers, wire formats and settings, and hands decoded samples
//! and questions to the engine. It knows no file format, no disk and no commit:
//! what it names of the crates below comes through `systole_engine`.
//!
//! In reading order: [`Settings`] say what can be set; [`Server`] accepts connections
//! and drains; `route` leads a request from its table through `auth` to a handler in
//! `ingest`, `read`, `sql`, `manage` or `observe`; `error` is the one mapping of what can go
//! wrong to HTTP, `reply` what is sent; [`openapi`] describes it all; [`demo`] shows it; [`open_files`] fits
//! the server into what the system allows a process.

mod app;
mod auth;
pub mod check;
pub mod cli;
pub mod demo;
mod error;
mod ingest;
mod manage;
mod nearest;
mod observe;
pub mod open_files;
pub mod openapi;
mod read;
mod reply;
mod route;
mod server;
mod settings;
mod sql;

pub use auth::{
    KEY_PREFIX, KeySpec, RandomFault, Scope, Scopes, Secret, is_key_shaped, is_org_id, is_user_id, make_key,
};
pub use server::{Drained, Server, StartFault};
pub use settings::{
    DEFAULT_ORG, DispatchSettings, Environment, Flags, HttpSettings, IngestSettings, IssuerKey,
    IssuerSettings, LogSettings, QuerySettings, SettingFault, Settings, StorageSettings, TlsSettings,
    process_environment,
};
