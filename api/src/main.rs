//! The binary: settings, runtime, start, wait for the signal, drain.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use systole::check::{self, CheckFault};
use systole::cli::{self, Cli, Command, DemoArgs, KeyCommand, KeyFault};
use systole::{Server, Settings, StartFault, demo, open_files, openapi, process_environment};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A wrong setting or flag (`EX_USAGE` of sysexits).
const EXIT_SETTING: u8 = 64;

/// Nothing could be checked: 1 is a fault that was found.
const EXIT_UNCHECKED: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(fault) => {
            let _ = fault.print();
            return if fault.use_stderr() { ExitCode::from(EXIT_SETTING) } else { ExitCode::SUCCESS };
        }
    };
    match cli.command {
        Command::Serve(args) => match Settings::load(&args.flags(), &process_environment()) {
            Ok(settings) => serve(settings),
            Err(fault) => fail(&fault, EXIT_SETTING),
        },
        Command::Demo(args) => show(&args),
        Command::Key(KeyCommand::Create(args)) => match cli::create_key(args, &process_environment()) {
            Ok(made) => {
                if let Some(folder) = &made.new_folder {
                    eprintln!("made a new data folder at {}", folder.display());
                }
                print_line(made.key.expose())
            }
            Err(KeyFault::Setting(fault)) => fail(&fault, EXIT_SETTING),
            Err(fault) => fail(&fault, 1),
        },
        Command::Check(args) => match check::run(args, &process_environment()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(CheckFault::Setting(fault)) => fail(&fault, EXIT_SETTING),
            Err(fault) => fail(&fault, EXIT_UNCHECKED),
        },
        Command::Openapi => print_line(openapi::DOCUMENT.trim_end()),
    }
}

fn serve(mut settings: Settings) -> ExitCode {
    prepare(settings.log.level);
    open_files::fit(&mut settings);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return fail(&fault, 1),
    };
    match runtime.block_on(run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            let setting = matches!(fault.downcast_ref(), Some(StartFault::Setting { .. }));
            fail(fault.as_ref(), if setting { EXIT_SETTING } else { 1 })
        }
    }
}

/// Log and TLS, once for the process.
fn prepare(level: LevelFilter) {
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
    // One provider for the whole process; it can only be installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn show(args: &DemoArgs) -> ExitCode {
    prepare(demo::log_level());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(fault) => return fail(&fault, 1),
    };
    let shown = runtime.block_on(demo::run(args, async {
        // Without signals only the time ends it.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }));
    match shown {
        Ok(outcome) if outcome.agrees => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(fault) => fail(&fault, 1),
    }
}

async fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = Server::start(settings).await?;
    print_line(&format!("listening on {}", server.url()));
    tracing::info!(address = %server.address(), "accepting connections");
    let received = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal = received, "stopping");
    server.stop().await;
    Ok(())
}

fn print_line(line: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One line with the whole chain of causes.
fn fail(fault: &dyn Error, code: u8) -> ExitCode {
    let mut line = fault.to_string();
    let mut source = fault.source();
    while let Some(fault) = source {
        line.push_str(&format!(": {fault}"));
        source = fault.source();
    }
    eprintln!("systole: {line}");
    ExitCode::from(code)
}
