//! `GET /metrics`: the counters of server and engine.
//!
//! Requests are counted in plain atomics, a few nanoseconds each; everything is
//! put together when it is asked for, and printed as the classic Prometheus text,
//! which every collector reads.

use std::fmt::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderValue;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use systole_engine::events::webhooks::DispatchStats;
use systole_engine::{HistogramSnapshot, Stats};

use crate::app::App;
use crate::error::Refusal;
use crate::reply::{self, Reply};
use crate::route::ROUTES;

/// One row for each route and one for what matches none.
const ROWS: usize = ROUTES.len() + 1;
/// 1xx to 5xx.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Upper bounds of the request durations in seconds: a commit takes milliseconds.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

const CLASSIC: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Counters of the HTTP side.
#[derive(Debug)]
pub(crate) struct Observe {
    answered: [[AtomicU64; CLASSES.len()]; ROWS],
    seconds: [Histogram; ROWS],
    auth_rejected: AtomicU64,
    points_rejected: AtomicU64,
    panics: AtomicU64,
    connections_open: AtomicU64,
    connections: AtomicU64,
}

#[derive(Debug)]
struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Default for Observe {
    fn default() -> Observe {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        let histogram = || Histogram {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            nanoseconds: AtomicU64::new(0),
        };
        Observe {
            answered: std::array::from_fn(|_| zeros()),
            seconds: std::array::from_fn(|_| histogram()),
            auth_rejected: AtomicU64::new(0),
            points_rejected: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }
}

impl Observe {
    /// A request of route `index` has its answer's head.
    pub(crate) fn answered(&self, index: Option<usize>, status: StatusCode, elapsed: Duration) {
        let row = index.unwrap_or(ROWS - 1);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.answered[row][class].fetch_add(1, Ordering::Relaxed);
        self.seconds[row].observe(elapsed);
    }

    pub(crate) fn auth_rejected(&self) {
        self.auth_rejected.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn points_rejected(&self, points: usize) {
        if points > 0 {
            self.points_rejected.fetch_add(points as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_opened(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connections_open.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_closed(&self) {
        self.connections_open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Connections that are open now.
    pub(crate) fn connections_open(&self) -> u64 {
        self.connections_open.load(Ordering::Relaxed)
    }
}

impl Histogram {
    fn observe(&self, elapsed: Duration) {
        let seconds = elapsed.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn snapshot(&self) -> HistogramSnapshot {
        let counts: Vec<u64> = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        HistogramSnapshot {
            bounds: &BOUNDS,
            count: counts.iter().sum(),
            counts,
            sum: self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

pub(crate) fn scrape(app: &App) -> Result<Reply, Refusal> {
    let mut registry = Registry::default();
    let (health, lag) = (app.engine.health(), app.engine.webhooks().lag());
    registry.register_collector(Box::new(Scrape {
        stats: app.engine.stats(),
        webhooks: lag.stats,
        router_lag_seconds: lag.router_ms as f64 / 1e3,
        lag_seconds: lag.lag_ms as f64 / 1e3,
        attempts_dropped: app.engine.attempt_queue().dropped(),
        sql_running: app.engine.sql_running() as u64,
        ready: health.ready,
        http: HttpSnapshot::of(&app.observe),
    }));
    let mut open_metrics = String::new();
    text::encode(&mut open_metrics, &registry).map_err(Refusal::internal)?;
    Ok(reply::typed(StatusCode::OK, CLASSIC, classic(&open_metrics)))
}

/// OpenMetrics text as Prometheus' classic text: there a counter's name in `HELP`
/// and `TYPE` ends in `_total` too, and there is no end mark.
fn classic(open_metrics: &str) -> String {
    let mut out = String::with_capacity(open_metrics.len() + 1024);
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        let of_counter = |line: &str| line.starts_with("# TYPE ") && line.ends_with(" counter");
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let described = line.starts_with("# HELP ") && lines.peek().is_some_and(|next| of_counter(next));
        if described || of_counter(line) {
            let mut words = line.splitn(4, ' ');
            let mut word = || words.next().unwrap_or_default();
            let (hash, keyword, name, rest) = (word(), word(), word(), word());
            out.push_str(&format!("{hash} {keyword} {name}_total {rest}"));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

#[derive(Debug)]
struct HttpSnapshot {
    answered: Vec<(usize, usize, u64)>,
    seconds: Vec<(usize, HistogramSnapshot)>,
    auth_rejected: u64,
    points_rejected: u64,
    panics: u64,
    connections_open: u64,
    connections: u64,
}

impl HttpSnapshot {
    /// What was never counted is left out.
    fn of(observe: &Observe) -> HttpSnapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let cells = observe.answered.iter().enumerate().flat_map(|(row, classes)| {
            classes.iter().enumerate().map(move |(class, count)| (row, class, load(count)))
        });
        let seconds = observe.seconds.iter().map(Histogram::snapshot).enumerate();
        HttpSnapshot {
            answered: cells.filter(|(_, _, count)| *count > 0).collect(),
            seconds: seconds.filter(|(_, snapshot)| snapshot.count > 0).collect(),
            auth_rejected: load(&observe.auth_rejected),
            points_rejected: load(&observe.points_rejected),
            panics: load(&observe.panics),
            connections_open: observe.connections_open(),
            connections: load(&observe.connections),
        }
    }
}

/// Everything at one moment.
#[derive(Debug)]
struct Scrape {
    stats: Stats,
    webhooks: DispatchStats,
    router_lag_seconds: f64,
    lag_seconds: f64,
    attempts_dropped: u64,
    sql_running: u64,
    ready: bool,
    http: HttpSnapshot,
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut lines = Lines(encoder);
        self.ingest(&mut lines)?;
        self.storage(&mut lines)?;
        self.webhooks(&mut lines)?;
        self.http(&mut lines)
    }
}

impl Scrape {
    fn ingest(&self, lines: &mut Lines<'_>) -> Result<(), Error> {
        let stats = &self.stats;
        lines.gauge("systole_ready", "1 if the server has recovered and can write", u64::from(self.ready))?;
        lines.counter("systole_samples_accepted", "Samples acknowledged", stats.samples_accepted)?;
        lines.counter("systole_points_rejected", "Bad points in requests", self.http.points_rejected)?;
        lines.counter("systole_batches_committed", "Batches committed", stats.batches_committed)?;
        lines.counter("systole_commit_groups", "Groups written with one fsync each", stats.commit_groups)?;
        lines.counter("systole_journal_bytes", "Bytes written to the journal", stats.journal_bytes)?;
        lines.gauge("systole_journal_segments", "Segments of the journal", stats.journal_segments)?;
        lines.gauge("systole_ring_frames", "Frames that wait for the committer", stats.ring_frames)?;
        lines.gauge(
            "systole_body_budget_used_bytes",
            "Bytes of bodies in flight",
            stats.body_budget_used_bytes,
        )?;
        lines.histogram(
            "systole_commit_seconds",
            "From submission to acknowledgement",
            &stats.commit_seconds,
        )?;
        lines.histogram("systole_fsync_seconds", "Time in fdatasync of the journal", &stats.fsync_seconds)
    }

    fn storage(&self, lines: &mut Lines<'_>) -> Result<(), Error> {
        let stats = &self.stats;
        lines.gauge("systole_buffer_samples", "Samples not yet in Parquet", stats.buffer_samples)?;
        lines.gauge("systole_buffer_bytes", "Bytes of the buffer", stats.buffer_bytes)?;
        lines.counter("systole_flushes", "Flushes that succeeded", stats.flushes)?;
        lines.counter("systole_flush_failures", "Flushes that failed", stats.flush_failures)?;
        lines.counter("systole_flushed_rows", "Rows written to Parquet", stats.flushed_rows)?;
        lines.counter("systole_flushed_bytes", "Bytes of Parquet that flushes wrote", stats.flushed_bytes)?;
        self.compaction(lines)?;
        lines.gauge("systole_files", "Parquet files", stats.files)?;
        lines.gauge("systole_damaged_files", "Parquet files found damaged", stats.damaged_files)?;
        lines.gauge("systole_file_bytes", "Bytes of Parquet files", stats.file_bytes)?;
        self.series(lines)?;
        lines.gauge("systole_sql_running", "SQL statements that run now", self.sql_running)?;
        lines.gauge("systole_sequence", "Last sequence committed", stats.sequence)?;
        lines.gauge("systole_flushed_sequence", "Last sequence in Parquet", stats.flushed_sequence)
    }

    fn compaction(&self, lines: &mut Lines<'_>) -> Result<(), Error> {
        let stats = &self.stats;
        lines.counter("systole_compactions", "Merges of Parquet files", stats.compactions)?;
        lines.counter("systole_compaction_failures", "Merges that failed", stats.compaction_failures)?;
        lines.counter("systole_compaction_rows", "Rows that merges read", stats.compaction_rows)?;
        lines.counter(
            "systole_compaction_read_bytes",
            "Bytes of files that merges read",
            stats.compaction_read_bytes,
        )?;
        lines.counter(
            "systole_compaction_written_bytes",
            "Bytes of files that merges wrote",
            stats.compaction_written_bytes,
        )?;
        let written = stats.flushed_bytes + stats.compaction_written_bytes;
        let amplification = written as f64 / stats.flushed_bytes.max(1) as f64;
        lines.ratio(
            "systole_write_amplification",
            "Bytes of Parquet written since start for each byte that flushes wrote",
            amplification,
        )?;
        lines.gauge("systole_runs", "Parquet files that are not in their periods yet", stats.backlog.runs)?;
        lines.gauge(
            "systole_partitions",
            "Folders of organisation, metric, period and bucket",
            stats.backlog.partitions,
        )?;
        lines.gauge(
            "systole_partition_files",
            "Files in the partition that has most",
            stats.backlog.partition_files_max,
        )
    }

    fn series(&self, lines: &mut Lines<'_>) -> Result<(), Error> {
        let series = &self.stats.series;
        lines.gauge("systole_series", "Series in memory", series.series)?;
        lines.gauge("systole_series_users", "Users in memory", series.users)?;
        lines.gauge("systole_series_bytes", "Memory of newest values and spans", series.bytes)?;
        lines.gauge("systole_series_dirty_bytes", "Part of it in no checkpoint yet", series.dirty_bytes)?;
        lines.counter("systole_series_evictions", "Users dropped from memory", series.evictions)?;
        lines.counter("systole_series_read_backs", "Users read back from checkpoints", series.read_backs)?;
        lines.gauge("systole_series_checkpoint_files", "Checkpoint files", series.checkpoint_files)?;
        lines.gauge("systole_series_checkpoint_bytes", "Bytes of them", series.checkpoint_bytes)?;
        lines.counter(
            "systole_series_checkpoint_written_bytes",
            "Bytes written to checkpoint files, merges included",
            series.checkpoint_bytes_written,
        )?;
        lines.counter(
            "systole_series_checkpoint_failures",
            "Checkpoints that failed and are tried again",
            self.stats.checkpoint_failures,
        )
    }

    fn webhooks(&self, lines: &mut Lines<'_>) -> Result<(), Error> {
        let stats = &self.webhooks;
        let lag = self.stats.sequence.saturating_sub(stats.routed_sequence);
        lines.gauge("systole_webhook_endpoints", "Webhook endpoints", stats.endpoints)?;
        lines.counter(
            "systole_webhook_events",
            "Events offered to endpoints, once each",
            stats.routed_events,
        )?;
        lines.counter("systole_webhook_attempts", "Delivery attempts", stats.attempts)?;
        lines.counter(
            "systole_webhook_attempts_dropped",
            "Attempts that were made and are not in the delivery log",
            self.attempts_dropped,
        )?;
        lines.counter("systole_webhook_delivered", "Deliveries answered 2xx", stats.delivered)?;
        lines.counter("systole_webhook_failed", "Attempts that failed", stats.failed)?;
        lines.counter("systole_webhook_given_up", "Deliveries whose retries ended", stats.given_up)?;
        lines.counter(
            "systole_webhook_payload_gone",
            "Deliveries whose payload was gone",
            stats.payload_gone,
        )?;
        lines.gauge(
            "systole_webhook_retries_waiting",
            "Deliveries that wait for a retry",
            stats.retries_waiting,
        )?;
        lines.gauge("systole_webhook_in_flight", "Requests in flight to receivers", stats.in_flight)?;
        lines.gauge(
            "systole_webhook_connections_open",
            "Connections to receivers that are open, idle ones too",
            stats.open_connections,
        )?;
        lines.gauge(
            "systole_webhook_lanes_behind",
            "Endpoints that lag behind the router",
            stats.lanes_behind,
        )?;
        lines.gauge("systole_webhook_retries_due", "Retries due or under way", stats.retries_due)?;
        lines.gauge(
            "systole_webhook_lanes_paused",
            "Endpoints that only fail and are only probed",
            stats.lanes_paused,
        )?;
        lines.gauge("systole_webhook_backlogs", "Ranges sent behind live events", stats.backlogs)?;
        lines.gauge(
            "systole_webhook_lag_events",
            "Events offered to endpoints and not decided, retries and backlogs apart",
            stats.lag_events,
        )?;
        lines.ratio(
            "systole_webhook_lag_seconds",
            "Age of the oldest event that some endpoint has not decided, retries apart",
            self.lag_seconds,
        )?;
        lines.gauge("systole_webhook_router_lag", "Frames committed and not routed", lag)?;
        lines.ratio(
            "systole_webhook_router_lag_seconds",
            "Age of the oldest frame committed and not routed",
            self.router_lag_seconds,
        )?;
        lines.counter(
            "systole_webhook_catalog_statements",
            "Statements that kept deliveries safe",
            stats.statements,
        )?;
        lines.counter(
            "systole_webhook_attempt_milliseconds",
            "Time in attempts",
            stats.attempt_nanos / 1_000_000,
        )
    }

    fn http(&self, lines: &mut Lines<'_>) -> Result<(), Error> {
        let http = &self.http;
        lines.counter("systole_auth_rejected", "Requests answered 401", http.auth_rejected)?;
        lines.counter("systole_panics", "Handlers that panicked", http.panics)?;
        lines.counter("systole_connections_accepted", "Connections accepted", http.connections)?;
        lines.gauge("systole_connections_open", "Connections open", http.connections_open)?;
        lines.requests(&http.answered)?;
        lines.durations(&http.seconds)
    }
}

/// Writes metrics.
struct Lines<'a>(DescriptorEncoder<'a>);

impl Lines<'_> {
    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn ratio(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn histogram(&mut self, name: &str, help: &str, snapshot: &HistogramSnapshot) -> Result<(), Error> {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<[(&str, &str); 0]>(snapshot.sum, snapshot.count, &buckets(snapshot), None)
    }

    fn requests(&mut self, cells: &[(usize, usize, u64)]) -> Result<(), Error> {
        let name = "systole_http_requests";
        let mut encoder = self.0.encode_descriptor(name, "Requests answered", None, MetricType::Counter)?;
        for (row, class, count) in cells {
            let [method, route] = labels(*row);
            let labels = [method, route, ("status", CLASSES[*class])];
            ConstCounter::new(*count).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn durations(&mut self, rows: &[(usize, HistogramSnapshot)]) -> Result<(), Error> {
        let (name, help) = ("systole_http_request_seconds", "From a request's head to its answer's head");
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (row, snapshot) in rows {
            let labels = labels(*row);
            let mut encoder = encoder.encode_family(&labels)?;
            encoder.encode_histogram::<[(&str, &str); 0]>(
                snapshot.sum,
                snapshot.count,
                &buckets(snapshot),
                None,
            )?;
        }
        Ok(())
    }
}

fn labels(row: usize) -> [(&'static str, &'static str); 2] {
    let route = ROUTES.get(row);
    let method = route.map_or("any", |route| route.method.as_str());
    [("method", method), ("route", route.map_or("none", |route| route.path))]
}

/// Bounds and counts; the encoder adds them up itself.
fn buckets(snapshot: &HistogramSnapshot) -> Vec<(f64, u64)> {
    let bounds = snapshot.bounds.iter().copied().chain(std::iter::once(f64::INFINITY));
    bounds.zip(snapshot.counts.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_type_in_the_classic_text() {
        let open = "# HELP a_b Help text here.\n# TYPE a_b counter\na_b_total 1\n# HELP c C.\n# TYPE c gauge\nc 2\n# EOF\n";
        let text = "# HELP a_b_total Help text here.\n# TYPE a_b_total counter\na_b_total 1\n# HELP c C.\n# TYPE c gauge\nc 2\n";
        assert_eq!(classic(open), text);
    }

    #[test]
    fn each_figure_stands_under_its_own_name() {
        let scrape = Scrape {
            stats: Stats::default(),
            webhooks: DispatchStats { open_connections: 5, in_flight: 6, ..DispatchStats::default() },
            router_lag_seconds: 0.0,
            lag_seconds: 0.0,
            attempts_dropped: 7,
            sql_running: 8,
            ready: true,
            http: HttpSnapshot::of(&Observe::default()),
        };
        let mut registry = Registry::default();
        registry.register_collector(Box::new(scrape));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        let text = classic(&text);
        for line in [
            "systole_webhook_connections_open 5",
            "systole_webhook_in_flight 6",
            "systole_webhook_attempts_dropped_total 7",
            "systole_sql_running 8",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_duration_falls_into_its_bucket() {
        let observe = Observe::default();
        observe.answered(Some(0), StatusCode::OK, Duration::from_millis(3));
        observe.answered(None, StatusCode::NOT_FOUND, Duration::from_secs(60));
        let snapshot = HttpSnapshot::of(&observe);
        assert_eq!(snapshot.answered, [(0, 1, 1), (ROWS - 1, 3, 1)]);
        assert_eq!(snapshot.seconds[0].1.counts[3], 1);
        assert_eq!(snapshot.seconds[1].1.counts[BOUNDS.len()], 1);
    }
}
