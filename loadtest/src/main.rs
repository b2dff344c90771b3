//! `loadtest`: drives a running server and prints what it acknowledged and
//! delivered.
//!
//! Exit 0 if samples were acknowledged and the server kept its word, 1 if not or if
//! it was not there, 2 for a wrong command line.

mod command;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use command::ingest::Ingest;
use command::receive::Receive;
use command::sign_and_post::SignAndPost;
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
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Ingest(ingest) => ingest.run(),
        Command::Webhooks(webhooks) => webhooks.run(),
        Command::Receive(receive) => receive.run(),
        Command::SignAndPost(sign_and_post) => sign_and_post.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("loadtest: {}", error_chain(&*error));
        ExitCode::FAILURE
    })
}
