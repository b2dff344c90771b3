//! One answer of `/metric/{metric}` as it is printed: head, rows, tail.

use std::collections::HashMap;
use std::ops::Range;

use systole_engine::timestamp::TimestampWriter;
use systole_engine::{EncodeError, SeriesArrow};

use super::buckets::{self, Buckets};
use super::cursor::Cursor;
use super::json::put_text;
use super::part::Part;
use super::{Format, csv, json};

/// Rows printed at a time as text, about 48 KB.
const TEXT_ROWS: usize = 512;
/// Rows of an Arrow batch, which costs some 500 bytes of its own.
const ARROW_ROWS: usize = 8192;
/// Bytes a printed row usually takes.
pub(super) const ROW_BYTES: usize = 112;

/// An answer in the making.
#[derive(Debug)]
pub(super) struct Page {
    metric: String,
    unit: String,
    buckets: Option<Buckets>,
    printer: Printer,
    /// Samples or buckets this page may still print; `None` without a `limit`.
    left: Option<usize>,
    /// There was at least one behind the last.
    more: bool,
    /// The next page's, once `more` is known.
    cursor: Cursor,
}

#[derive(Debug)]
enum Printer {
    Json { times: TimestampWriter, printed_any: bool },
    Csv { times: TimestampWriter },
    Arrow(Box<SeriesArrow>),
}

/// What is asked for, beside the samples themselves.
pub(super) struct Asked<'a> {
    pub(super) metric: &'a str,
    pub(super) unit: &'a str,
    pub(super) buckets: Option<Buckets>,
    pub(super) format: Format,
    pub(super) limit: Option<usize>,
    /// Its place is that of the page before, if there is one.
    pub(super) cursor: Cursor,
}

impl Page {
    pub(super) fn new(asked: Asked<'_>) -> Page {
        let Asked { metric, unit, buckets, format, limit, cursor } = asked;
        let printer = match format {
            Format::Json => Printer::Json { times: TimestampWriter::default(), printed_any: false },
            Format::Csv => Printer::Csv { times: TimestampWriter::default() },
            Format::Arrow => {
                let metadata = HashMap::from([
                    ("metric".to_owned(), metric.to_owned()),
                    ("unit".to_owned(), unit.to_owned()),
                ]);
                Printer::Arrow(Box::new(match &buckets {
                    None => SeriesArrow::samples(metadata),
                    Some(_) => SeriesArrow::buckets(metadata),
                }))
            }
        };
        let (metric, unit) = (metric.to_owned(), unit.to_owned());
        Page { metric, unit, buckets, printer, left: limit, more: false, cursor }
    }

    pub(super) fn format(&self) -> Format {
        match self.printer {
            Printer::Json { .. } => Format::Json,
            Printer::Csv { .. } => Format::Csv,
            Printer::Arrow(_) => Format::Arrow,
        }
    }

    /// Whether it is one page of several.
    pub(super) fn is_limited(&self) -> bool {
        self.left.is_some()
    }

    /// How many rows are best printed at a time.
    pub(super) fn rows_at_once(&self) -> usize {
        match self.printer {
            Printer::Arrow(_) => ARROW_ROWS,
            _ => TEXT_ROWS,
        }
    }

    pub(super) fn head(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match &mut self.printer {
            Printer::Json { .. } => self.json_head(out),
            Printer::Csv { .. } if self.buckets.is_some() => out.extend_from_slice(csv::BUCKETS_HEADER),
            Printer::Csv { .. } => out.extend_from_slice(csv::SAMPLES_HEADER),
            Printer::Arrow(arrow) => arrow.head(out)?,
        }
        Ok(())
    }

    fn json_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"metric\":");
        put_text(out, &self.metric);
        out.extend_from_slice(b",\"unit\":");
        put_text(out, &self.unit);
        if let Some(Buckets { bucketing, resolution, zone }) = &self.buckets {
            out.extend_from_slice(b",\"resolution\":");
            put_text(out, resolution);
            out.extend_from_slice(b",\"agg\":");
            put_text(out, buckets::name(bucketing.aggregation));
            out.extend_from_slice(b",\"tz\":");
            put_text(out, zone);
        }
        out.extend_from_slice(b",\"data_points\":[");
    }

    /// Prints up to `rows_max` rows of `part` from row `from` on and returns the row
    /// to go on with.
    pub(super) fn rows(
        &mut self,
        part: &Part,
        from: usize,
        rows_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<usize, EncodeError> {
        let end = part.len().min(from.saturating_add(rows_max));
        let allowed = self.left.map_or(end, |left| end.min(from.saturating_add(left)));
        self.put(part, from..allowed, out)?;
        if let Some(left) = &mut self.left {
            *left -= allowed - from;
            if *left == 0 && allowed > from {
                self.cursor.after = part.place(allowed - 1);
            }
        }
        if allowed < end {
            self.more = true;
            return Ok(part.len());
        }
        Ok(end)
    }

    fn put(&mut self, part: &Part, rows: Range<usize>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match (&mut self.printer, part) {
            (Printer::Json { times, printed_any }, part) => {
                for at in rows {
                    if std::mem::replace(printed_any, true) {
                        out.push(b',');
                    }
                    match part {
                        Part::Samples(chunk) => json::put_sample(out, times, &chunk.row(at)),
                        Part::Buckets(buckets) => json::put_bucket(out, &buckets[at]),
                    }
                }
            }
            (Printer::Csv { times }, Part::Samples(chunk)) => {
                rows.for_each(|at| csv::put_sample(out, times, &self.unit, &chunk.row(at)));
            }
            (Printer::Csv { .. }, Part::Buckets(buckets)) => {
                rows.for_each(|at| csv::put_bucket(out, &self.unit, &buckets[at]));
            }
            (Printer::Arrow(arrow), Part::Samples(chunk)) => arrow.put_samples(chunk, rows, out)?,
            (Printer::Arrow(arrow), Part::Buckets(buckets)) => arrow.put_buckets(&buckets[rows], out)?,
        }
        Ok(())
    }

    /// Whether nothing more is to be printed but the end.
    pub(super) fn is_full(&self) -> bool {
        self.more
    }

    /// The cursor of the next page, if there is one.
    pub(super) fn next_cursor(&self) -> Option<String> {
        self.more.then(|| self.cursor.encode())
    }

    pub(super) fn tail(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        match &mut self.printer {
            Printer::Csv { .. } => {}
            Printer::Arrow(arrow) => arrow.tail(out)?,
            Printer::Json { .. } => {
                out.push(b']');
                if let Some(cursor) = self.next_cursor() {
                    out.extend_from_slice(b",\"next_cursor\":\"");
                    out.extend_from_slice(cursor.as_bytes());
                    out.push(b'"');
                }
                out.push(b'}');
            }
        }
        Ok(())
    }
}
