//! `loadtest`: drives a running server and prints what it acknowledged and
//! delivered.
//!
//! Exit 0 if the server kept its word (what it acknowledged, stored, delivered and
//! answered is what was sent and asked), 1 if not or if it was not there, 2 for a
//! wrong command line. Figures that miss what is wanted are marked, and exit 1 only
//! where `--strict` asks for it.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use command::compare_duckdb::CompareDuckdb;
use command::dataset::Dataset;
use command::deliver::Deliver;
use command::fleet::Fleet;
use command::ingest::Ingest;
use command::isolate::Isolate;
use command::ledger::Ledger;
use command::mixed::Mixed;
use command::query::Query;
use command::receive::Receive;
use command::sign_and_post::SignAndPost;
use command::soak::Soak;
use command::webhooks::Webhooks;
use loadtest::report::error_chain;

/// Load for a Systole server.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pushes prepared bulk-ingest bodies over keep-alive connections.
    Ingest(Box<Ingest>),
    /// The same, with webhook endpoints and a receiver for what comes of it.
    Webhooks(Box<Webhooks>),
    /// Receives and verifies webhooks, a line a second.
    Receive(Receive),
    /// Signs and posts bodies to a receiver in this process: the limit of deliveries.
    SignAndPost(SignAndPost),
    /// How fast events and samples are delivered, beside the limit of it.
    Deliver(Box<Deliver>),
    /// Many endpoints of which half are dead: what the living notice.
    Isolate(Box<Isolate>),
    /// Kills the server again and again: what was acknowledged is delivered.
    Ledger(Box<Ledger>),
    /// The reference fleet: a million users, twenty metrics, days of syncs.
    Fleet(Box<Fleet>),
    /// Makes the data set that reads are judged by: 100 million rows of heart rate.
    Dataset(Box<Dataset>),
    /// The judged reads over the data set, with what is wanted of each.
    Query(Box<Query>),
    /// The same SQL by the server and by DuckDB over its files.
    CompareDuckdb(Box<CompareDuckdb>),
    /// A fixed rate for minutes: 429s, acknowledgements, memory; then saturated.
    Soak(Box<Soak>),
    /// A fixed rate with and without a heavy SQL scan beside it.
    Mixed(Box<Mixed>),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Ingest(ingest) => ingest.run(),
        Command::Webhooks(webhooks) => webhooks.run(),
        Command::Receive(receive) => receive.run(),
        Command::SignAndPost(sign_and_post) => sign_and_post.run(),
        Command::Deliver(deliver) => deliver.run(),
        Command::Isolate(isolate) => isolate.run(),
        Command::Ledger(ledger) => ledger.run(),
        Command::Fleet(fleet) => fleet.run(),
        Command::Dataset(dataset) => dataset.run(),
        Command::Query(query) => query.run(),
        Command::CompareDuckdb(compare) => compare.run(),
        Command::Soak(soak) => soak.run(),
        Command::Mixed(mixed) => mixed.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("loadtest: {}", error_chain(&*error));
        ExitCode::FAILURE
    })
}
