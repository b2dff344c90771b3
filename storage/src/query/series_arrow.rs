//! A series as an Arrow stream: samples as they are, or buckets.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Float64Array, Int16Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::SampleChunk;
use super::bucket::Bucket;
use super::encoder::{BatchEncoder, EncodeError, Encoding};

fn schema(fields: &[(&str, DataType, bool)]) -> Schema {
    let field = |(name, kind, nullable): &(&str, DataType, bool)| Field::new(*name, kind.clone(), *nullable);
    Schema::new(fields.iter().map(field).collect::<Vec<_>>())
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// Names as in the open files.
static SAMPLES: LazyLock<Schema> = LazyLock::new(|| {
    schema(&[
        ("recorded_at", time(), false),
        ("value", DataType::Float64, false),
        ("source", DataType::Utf8, false),
        ("device", DataType::Utf8, true),
        ("zone_offset_minutes", DataType::Int16, true),
        ("ended_at", time(), true),
        ("is_daily_total", DataType::Boolean, true),
    ])
});

static BUCKETS: LazyLock<Schema> = LazyLock::new(|| {
    schema(&[
        ("recorded_at", time(), false),
        ("value", DataType::Float64, true),
        ("source", DataType::Utf8, true),
        ("count", DataType::Int64, false),
        ("zone_offset_minutes", DataType::Int16, true),
    ])
});

/// Writes one answer. What it writes into is an argument, so that it can be sent
/// piece by piece.
#[derive(Debug)]
pub struct SeriesArrow {
    schema: SchemaRef,
    encoder: Option<BatchEncoder>,
}

impl SeriesArrow {
    /// An answer of samples; `metadata` goes into the schema.
    #[must_use]
    pub fn samples(metadata: HashMap<String, String>) -> SeriesArrow {
        SeriesArrow { schema: Arc::new(SAMPLES.clone().with_metadata(metadata)), encoder: None }
    }

    /// An answer of buckets; `metadata` goes into the schema.
    #[must_use]
    pub fn buckets(metadata: HashMap<String, String>) -> SeriesArrow {
        SeriesArrow { schema: Arc::new(BUCKETS.clone().with_metadata(metadata)), encoder: None }
    }

    /// Appends the schema.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn head(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encoder = Some(BatchEncoder::new(Encoding::Arrow, &self.schema, out)?);
        Ok(())
    }

    /// Appends some samples of a chunk, counted in the order asked for.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn put_samples(
        &mut self,
        chunk: &SampleChunk,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.put(chunk.columns_in_order(rows), out)
    }

    /// Appends buckets.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn put_buckets(&mut self, buckets: &[Bucket], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let starts: TimestampMillisecondArray = buckets.iter().map(|bucket| Some(bucket.start)).collect();
        let count = |bucket: &Bucket| i64::try_from(bucket.count).unwrap_or(i64::MAX);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(starts.with_timezone("UTC")),
            Arc::new(buckets.iter().map(|bucket| bucket.value).collect::<Float64Array>()),
            Arc::new(buckets.iter().map(|bucket| bucket.source.as_deref()).collect::<StringArray>()),
            Arc::new(Int64Array::from_iter_values(buckets.iter().map(count))),
            Arc::new(buckets.iter().map(|bucket| bucket.zone_minutes).collect::<Int16Array>()),
        ];
        self.put(columns, out)
    }

    fn put(&mut self, columns: Vec<ArrayRef>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        match &mut self.encoder {
            Some(encoder) if batch.num_rows() > 0 => encoder.batch(&batch, out),
            _ => Ok(()),
        }
    }

    /// Appends the stream's end.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn tail(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.encoder.as_mut().map_or(Ok(()), |encoder| encoder.end(out))
    }
}
