//! `loadtest receive`: a receiver by itself, a line a second.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use loadtest::report::grouped;
use loadtest::{Detail, Dialect, Receiver, ReceiverCounts, ReceiverLive, ReceiverSettings, Secret};

use super::{Outcome, seconds};

const TICK: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Receive {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// The endpoint's secret.
    #[arg(long)]
    secret: Secret,
    /// How events are signed: standard or avycenna.
    #[arg(long, default_value_t = Dialect::Standard)]
    dialect: Dialect,
    /// The path of the endpoint's URL; anything else is answered 401.
    #[arg(long, default_value = "/")]
    path: String,
    /// Threads that read, verify and count.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Parses every body and checks its sample count.
    #[arg(long)]
    full: bool,
    /// Ends after this long; without it, when it is interrupted.
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
}

impl Receive {
    pub(crate) fn run(&self) -> Outcome {
        let receiver = Receiver::start(&ReceiverSettings {
            listen: self.listen,
            threads: self.threads.into(),
            detail: if self.full { Detail::Full } else { Detail::Fast },
            latency: true,
            ..ReceiverSettings::default()
        })?;
        receiver.expect(&self.path, self.dialect, &self.secret)?;
        println!("receiving at {}{}", receiver.url(), self.path);
        let (live, begin) = (receiver.live(), Instant::now());
        let mut before = ReceiverCounts::default();
        while let Some(pause) = self.pause(begin.elapsed()) {
            sleep(pause);
            before = show(&live, &before, pause);
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Until the next line; `None` once the time is over.
    fn pause(&self, elapsed: Duration) -> Option<Duration> {
        let Some(seconds) = self.seconds else {
            return Some(TICK);
        };
        let left = Duration::from_secs_f64(seconds).saturating_sub(elapsed);
        (left > Duration::ZERO).then(|| left.min(TICK))
    }
}

/// Prints what came since `before`, and everything that is wrong so far.
fn show(live: &ReceiverLive, before: &ReceiverCounts, pause: Duration) -> ReceiverCounts {
    let (now, latency) = (live.counts(), live.take_latency().percentiles());
    let rate = |now: u64, before: u64| ((now - before) as f64 / pause.as_secs_f64()) as u64;
    println!(
        "{} events/s, {} samples/s, {} MB/s | {} events, {} samples, {} duplicates, {} refused{} | \
         after commit p50 {:.2} ms p99 {:.2} ms",
        grouped(rate(now.events, before.events)),
        grouped(rate(now.samples, before.samples)),
        grouped(rate(now.bytes, before.bytes) / 1_000_000),
        grouped(now.events),
        grouped(now.samples),
        grouped(now.duplicates),
        grouped(now.refused()),
        faults(&now),
        latency.p50 as f64 / 1_000.0,
        latency.p99 as f64 / 1_000.0
    );
    now
}

fn faults(counts: &ReceiverCounts) -> String {
    let all = [
        (counts.bodies_changed, "with other bytes"),
        (counts.unreadable, "unreadable"),
        (counts.sample_counts_wrong, "with a wrong sample_count"),
        (counts.events_unkept, "beyond the ids remembered"),
    ];
    let wrong = all.into_iter().filter(|(count, _)| *count > 0);
    wrong.map(|(count, what)| format!(", {} {what}", grouped(count))).collect()
}
