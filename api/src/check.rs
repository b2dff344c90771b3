//! `systole check`: a line per fault on stdout, everything else on stderr.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use systole_engine::check::{CheckError, Checked, Finding, Progress, check_store};

use crate::cli::CheckArgs;
use crate::settings::{Environment, Flags, SettingFault, Settings};

/// How often the progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Before this nothing is said of what is left: the first files say little.
const ESTIMATE_AFTER: Duration = Duration::from_secs(1);

/// Why there was no check.
#[derive(Debug, thiserror::Error)]
pub enum CheckFault {
    /// A flag or variable is wrong.
    #[error(transparent)]
    Setting(#[from] SettingFault),
    /// Nothing could be checked.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// Checks the store of the data dir; says whether it is sound.
///
/// # Errors
/// [`CheckFault`] if there is nothing that can be checked.
pub fn run(args: CheckArgs, environment: &Environment) -> Result<bool, CheckFault> {
    let flags = Flags { data_dir: args.data_dir, ..Flags::default() };
    let settings = Settings::load(&flags, environment)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shown = !args.quiet && std::io::stderr().is_terminal();
    let started = Instant::now();
    let checked = checked(&settings, threads, shown)?;
    if !args.quiet {
        eprintln!("{}", summary(&checked, started.elapsed()));
    }
    Ok(checked.faults == 0)
}

fn checked(settings: &Settings, threads: usize, shown: bool) -> Result<Checked, CheckError> {
    let default_days = u32::try_from(settings.storage.retention_days).ok().filter(|days| *days > 0);
    let (progress, done, started) = (Progress::default(), AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let printer = scope.spawn(|| {
            while shown && !done.load(Ordering::Acquire) {
                eprint!("\r\x1b[K{}", line(&progress, started.elapsed()));
                std::thread::park_timeout(PROGRESS_INTERVAL);
            }
            if shown {
                eprint!("\r\x1b[K");
            }
        });
        let print = |finding: &Finding| print(finding, shown);
        let checked = check_store(&settings.data_dir, threads, default_days, &progress, &print);
        done.store(true, Ordering::Release);
        printer.thread().unpark();
        checked
    })
}

fn print(finding: &Finding, shown: bool) {
    if shown {
        eprint!("\r\x1b[K");
    }
    match finding {
        // Whoever closed stdout still gets the exit code.
        Finding::Fault(fault) => drop(writeln!(std::io::stdout().lock(), "{fault}")),
        Finding::Note(note) => eprintln!("note: {note}"),
    }
}

/// `checking: 12 of 120 files, 1.2 of 3.4 GB, 820 MB/s, 3 s left`.
fn line(progress: &Progress, elapsed: Duration) -> String {
    let [files_done, files, bytes_done, bytes] =
        [&progress.files_done, &progress.files, &progress.bytes_done, &progress.bytes]
            .map(|counter| counter.load(Ordering::Relaxed));
    let rate = bytes_done as f64 / elapsed.as_secs_f64().max(0.001);
    let mut line = format!(
        "checking: {files_done} of {files} files, {} of {}, {}/s",
        size(bytes_done as f64),
        size(bytes as f64),
        size(rate)
    );
    if elapsed > ESTIMATE_AFTER && rate > 0.0 {
        let left = bytes.saturating_sub(bytes_done) as f64 / rate;
        line.push_str(&format!(", {} s left", left.ceil()));
    }
    line
}

fn summary(checked: &Checked, elapsed: Duration) -> String {
    let Checked { files, rows, segments, frames, bytes, faults } = *checked;
    let verdict = match faults {
        0 => "no fault".to_owned(),
        1 => "1 fault".to_owned(),
        more => format!("{more} faults"),
    };
    format!(
        "{verdict} in {files} data files ({rows} rows) and {segments} segments ({frames} frames), {} in {:.1} s",
        size(bytes as f64),
        elapsed.as_secs_f64()
    )
}

fn size(bytes: f64) -> String {
    if bytes < 1e9 { format!("{:.1} MB", bytes / 1e6) } else { format!("{:.2} GB", bytes / 1e9) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_far_it_is_and_what_is_left() {
        let progress = Progress::default();
        progress.files_done.store(3, Ordering::Relaxed);
        progress.files.store(12, Ordering::Relaxed);
        progress.bytes_done.store(500_000_000, Ordering::Relaxed);
        progress.bytes.store(2_500_000_000, Ordering::Relaxed);
        assert_eq!(
            line(&progress, Duration::from_secs(2)),
            "checking: 3 of 12 files, 500.0 MB of 2.50 GB, 250.0 MB/s, 8 s left"
        );
        assert!(!line(&progress, Duration::from_millis(500)).contains("left"));
    }
}
