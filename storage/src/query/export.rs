//! Everything of one user as one Parquet file, written as it is read.
//!
//! Constraints: memory of a row group being encoded ([`ROW_GROUP_ROWS`] rows) and of a
//! slice; a reader that is slow holds the writer up. Metrics come one behind the other,
//! each over a snapshot of its own, each sorted by time; nothing hidden and nothing
//! superseded is in it.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use datafusion::error::DataFusionError;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::answer::read_slice;
use super::footers::Footers;
use super::window::Slices;
use super::{Order, QueryError, QueryPool, SamplesTable, Scan};
use crate::files::{COLUMN_NAMES, samples_schema};
use crate::store::Store;

/// Rows of a row group: some megabytes while it is encoded.
const ROW_GROUP_ROWS: usize = 128 * 1024;
/// Parts that wait for a slow reader; then the writer waits too.
const PARTS_AHEAD: usize = 2;

/// A file as it comes; dropping it ends the export.
#[derive(Debug)]
pub struct ExportStream {
    parts: mpsc::Receiver<Result<Bytes, QueryError>>,
}

impl ExportStream {
    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Option<Result<Bytes, QueryError>> {
        self.parts.recv().await
    }
}

impl QueryPool {
    /// All samples of a user in `metrics`, as a Parquet file with the columns of data
    /// files.
    ///
    /// # Errors
    /// [`QueryError::Busy`], [`QueryError::Stopping`]; what fails later comes through
    /// the stream.
    pub async fn export(
        &self,
        org: &str,
        user: &str,
        metrics: Vec<String>,
    ) -> Result<ExportStream, QueryError> {
        let permit = self.permit().await?;
        let (sender, parts) = mpsc::channel(PARTS_AHEAD);
        let scan = |metric| Scan {
            org: org.to_owned(),
            user: user.to_owned(),
            metric,
            source: None,
            start: i64::MIN,
            end: i64::MAX,
            before: None,
        };
        let mut export = Export {
            scans: metrics.into_iter().map(scan).collect(),
            store: self.store.clone(),
            footers: self.footers.clone(),
            sender,
            running: self.running.clone(),
            permit: Some(permit),
        };
        let runtime = self.runtime.as_ref().ok_or(QueryError::Stopping)?;
        runtime.spawn(async move {
            if let Err(error) = export.run().await {
                // Nobody may be there to hear it.
                let _ = export.sender.send(Err(error)).await;
            }
        });
        Ok(ExportStream { parts })
    }
}

struct Export {
    scans: Vec<Scan>,
    store: Arc<Store>,
    footers: Arc<Footers>,
    sender: mpsc::Sender<Result<Bytes, QueryError>>,
    running: Arc<Semaphore>,
    /// Its place among the running queries; given up while the reader is slow.
    permit: Option<OwnedSemaphorePermit>,
}

impl Export {
    async fn run(&mut self) -> Result<(), QueryError> {
        let output = Output::default();
        let mut writer = ArrowWriter::try_new(output.clone(), samples_schema(), Some(properties()?))
            .map_err(DataFusionError::from)?;
        for scan in std::mem::take(&mut self.scans) {
            if !self.metric(&scan, &mut writer, &output).await? {
                return Ok(());
            }
        }
        writer.close().map_err(DataFusionError::from)?;
        self.hand_over(&output).await;
        Ok(())
    }

    /// Writes one metric; false if nobody reads any more.
    async fn metric(
        &mut self,
        scan: &Scan,
        writer: &mut ArrowWriter<Output>,
        output: &Output,
    ) -> Result<bool, QueryError> {
        let table = SamplesTable::new(&scan.org, self.store.snapshot(), self.footers.clone());
        let located = table.locate(&scan.user, &scan.metric, scan.start, scan.end);
        let Some((start, end)) = located.clip(scan.start, scan.end) else { return Ok(true) };
        let mut slices = Slices::new(start, end, Order::Ascending, i64::MAX);
        while let Some(slice) = slices.next() {
            let part = Scan { start: slice.0, end: slice.1, ..scan.clone() };
            let Some(rows) = read_slice(&table, &part, &located, &COLUMN_NAMES, &mut slices)? else {
                continue;
            };
            writer.write(&rows).map_err(DataFusionError::from)?;
            if !self.hand_over(output).await {
                return Ok(false);
            }
            tokio::task::consume_budget().await;
        }
        Ok(true)
    }

    /// Gives what was written to the reader; false if it is gone.
    async fn hand_over(&mut self, output: &Output) -> bool {
        let bytes = std::mem::take(&mut *output.0.lock());
        if bytes.is_empty() {
            return !self.sender.is_closed();
        }
        let part = match self.sender.try_send(Ok(Bytes::from(bytes))) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(part)) => part,
        };
        self.permit = None;
        let taken = self.sender.send(part).await.is_ok();
        self.permit = self.running.clone().acquire_owned().await.ok();
        taken && self.permit.is_some()
    }
}

fn properties() -> Result<WriterProperties, DataFusionError> {
    let level = ZstdLevel::try_new(3).map_err(DataFusionError::from)?;
    Ok(WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build())
}

/// Collects what the encoder has done with.
#[derive(Clone, Debug, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
