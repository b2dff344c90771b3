//! The figures as a person watches them: six lines that change in place on a
//! terminal, one line a second anywhere else.

use std::io::{self, Write};
use std::time::Duration;

use tokio::time::Instant;

use super::look::{Look, Sight};
use super::{DemoOutcome, DemoSettings};
use crate::driver::LiveCounts;
use crate::histogram::Percentiles;
use crate::receiver::ReceiverCounts;
use crate::report::{Report, grouped};

/// Back to the first of so many lines.
fn up(lines: usize) -> String {
    format!("\x1b[{lines}A")
}
/// Clears a line; long lines are cut and not wrapped while figures change in place.
const CLEAR: &str = "\r\x1b[2K";
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";

/// Everything that is shown of one moment.
pub(super) struct Moment {
    pub(super) sent: LiveCounts,
    /// From sending a batch to its 200, since the moment before.
    pub(super) commit: Percentiles,
    pub(super) delivered: ReceiverCounts,
    /// From commit to receipt, since the moment before.
    pub(super) receipt: Percentiles,
    pub(super) look: Option<Look>,
}

/// Where the figures go.
pub(super) struct Screen<'a> {
    out: &'a mut (dyn Write + Send),
    terminal: bool,
    server_url: String,
    page_url: Option<String>,
    until: String,
    begin: Instant,
    /// The moment before, and when it was.
    last: (Instant, LiveCounts, ReceiverCounts),
    /// Lines that the next moment overwrites.
    lines_in_place: usize,
}

/// What happened in one second.
struct Rates {
    acknowledged: u64,
    delivered: u64,
    events: u64,
}

impl<'a> Screen<'a> {
    pub(super) fn new(out: &'a mut (dyn Write + Send), settings: &DemoSettings) -> Self {
        let now = Instant::now();
        Self {
            out,
            terminal: settings.terminal,
            server_url: settings.server_url.clone(),
            page_url: settings.page_url.clone(),
            until: match settings.seconds {
                Some(seconds) => format!("for {seconds} s"),
                None => "until Ctrl-C".to_owned(),
            },
            begin: now,
            last: (now, LiveCounts::default(), ReceiverCounts::default()),
            lines_in_place: 0,
        }
    }

    /// Says what is about to be shown.
    pub(super) fn open(&mut self) -> io::Result<()> {
        self.begin = Instant::now();
        self.last.0 = self.begin;
        let (server, until) = (self.server_url.clone(), self.until.clone());
        self.line(&format!("server      {server}, {until}"))?;
        if let Some(page) = self.page_url.clone() {
            self.line(&format!("page        {page}"))?;
        }
        Ok(())
    }

    /// Shows a moment.
    pub(super) fn show(&mut self, moment: &Moment) -> io::Result<()> {
        let rates = self.rates(moment);
        if self.terminal {
            let lines = block(self.begin.elapsed(), &rates, moment);
            self.draw(&lines)
        } else {
            self.line(&one_line(self.begin.elapsed(), &rates, moment))
        }
    }

    /// Writes a line that stays.
    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        self.lines_in_place = 0;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// What came of it all.
    pub(super) fn close(&mut self, report: &Report, outcome: &DemoOutcome) -> io::Result<()> {
        self.line("")?;
        write!(self.out, "{report}{outcome}")?;
        self.out.flush()
    }

    fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from(WRAP_OFF);
        if self.lines_in_place > 0 {
            text.push_str(&up(self.lines_in_place));
        }
        for line in lines {
            text.push_str(CLEAR);
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(WRAP_ON);
        self.lines_in_place = lines.len();
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    fn rates(&mut self, moment: &Moment) -> Rates {
        let now = Instant::now();
        let (before, sent, delivered) = self.last;
        self.last = (now, moment.sent, moment.delivered);
        let seconds = (now - before).as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| ((now - before) as f64 / seconds).round() as u64;
        Rates {
            acknowledged: rate(moment.sent.samples_acknowledged, sent.samples_acknowledged),
            delivered: rate(moment.delivered.samples, delivered.samples),
            events: rate(moment.delivered.events, delivered.events),
        }
    }
}

/// Samples acknowledged and not delivered yet.
fn lag(moment: &Moment) -> u64 {
    moment.sent.samples_acknowledged.saturating_sub(moment.delivered.samples)
}

fn block(elapsed: Duration, rates: &Rates, moment: &Moment) -> Vec<String> {
    let Moment { sent, commit, delivered, receipt, look } = moment;
    let mut lines = vec![
        format!("{:>9.0} s", elapsed.as_secs_f64()),
        format!(
            "sent      {:>12} samples/s  {:>14} acknowledged  commit {}",
            grouped(rates.acknowledged),
            grouped(sent.samples_acknowledged),
            times(commit)
        ),
        format!(
            "delivered {:>12} samples/s  {:>14} verified      {} events/s, {} duplicates, {} refused",
            grouped(rates.delivered),
            grouped(delivered.samples),
            grouped(rates.events),
            grouped(delivered.duplicates),
            grouped(delivered.refused())
        ),
        format!("lag       {:>12} samples    commit to receipt {}", grouped(lag(moment)), times(receipt)),
    ];
    lines.extend(look_lines(look.as_ref()));
    lines
}

/// Two lines, so that the block keeps its height.
fn look_lines(look: Option<&Look>) -> [String; 2] {
    match look {
        None => ["latest    -".to_owned(), "one day   -".to_owned()],
        Some(Look::Failed(error)) => [format!("latest    failed: {error}"), "one day   -".to_owned()],
        Some(Look::Seen(sight)) => [
            format!(
                "latest    {} of {} metrics of {} in {}",
                sight.latest,
                sight.metrics,
                sight.user_id,
                millis(sight.latest_time)
            ),
            format!(
                "one day   {} points of heart_rate in {}",
                grouped(points(sight)),
                millis(sight.points_time)
            ),
        ],
    }
}

fn one_line(elapsed: Duration, rates: &Rates, moment: &Moment) -> String {
    let Moment { sent, commit, delivered, receipt, look } = moment;
    let seen = match look {
        None => String::new(),
        Some(Look::Failed(error)) => format!(" | query failed: {error}"),
        Some(Look::Seen(sight)) => format!(
            " | latest: {} in {}, one day: {} points in {}",
            sight.latest,
            millis(sight.latest_time),
            grouped(points(sight)),
            millis(sight.points_time)
        ),
    };
    format!(
        "{:.0} s | sent {}/s, {} in all, commit {} | delivered {}/s, {} in all, {} refused | \
         lag {}, receipt {}{seen}",
        elapsed.as_secs_f64(),
        grouped(rates.acknowledged),
        grouped(sent.samples_acknowledged),
        times(commit),
        grouped(rates.delivered),
        grouped(delivered.samples),
        grouped(delivered.refused()),
        grouped(lag(moment)),
        times(receipt)
    )
}

fn points(sight: &Sight) -> u64 {
    sight.points as u64
}

fn times(of: &Percentiles) -> String {
    if of.count == 0 {
        return "-".to_owned();
    }
    let [p50, p99] = [of.p50, of.p99].map(Duration::from_micros);
    format!("p50 {} p99 {}", millis(p50), millis(p99))
}

fn millis(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ApiKey;

    fn moment(acknowledged: u64, delivered: u64) -> Moment {
        Moment {
            sent: LiveCounts { samples_acknowledged: acknowledged, ..LiveCounts::default() },
            commit: Percentiles { count: 10, p50: 1_200, p99: 4_500, ..Percentiles::default() },
            delivered: ReceiverCounts { samples: delivered, ..ReceiverCounts::default() },
            receipt: Percentiles::default(),
            look: Some(Look::Failed("the server has no answer".to_owned())),
        }
    }

    fn shown(terminal: bool) -> String {
        let mut out = Vec::new();
        let settings =
            DemoSettings { terminal, ..DemoSettings::new("http://127.0.0.1:1", ApiKey::new("avk_secret")) };
        let mut screen = Screen::new(&mut out, &settings);
        screen.open().expect("memory takes it");
        screen.show(&moment(1_500, 1_000)).expect("memory takes it");
        screen.show(&moment(3_000, 2_800)).expect("memory takes it");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_file_gets_one_plain_line_a_moment() {
        let text = shown(false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("http://127.0.0.1:1, until Ctrl-C"));
        for part in ["3,000 in all", "p50 1.20 ms p99 4.50 ms", "lag 200", "query failed"] {
            assert!(lines[2].contains(part), "{part:?} is not in {}", lines[2]);
        }
        assert!(!text.contains('\x1b') && !text.contains("secret"));
    }

    #[test]
    fn a_terminal_gets_six_lines_that_the_next_moment_overwrites() {
        let text = shown(true);
        assert_eq!(text.matches("\x1b[6A").count(), 1);
        assert_eq!(text.matches(CLEAR).count(), 12);
        assert_eq!(text.matches(WRAP_OFF).count(), text.matches(WRAP_ON).count());
    }
}
