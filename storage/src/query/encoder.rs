//! Record batches as bytes, one after the other: an Arrow IPC stream or CSV.
//!
//! An encoder holds one batch's bytes at a time. `new` writes the head (the schema,
//! or the header row) into it, [`BatchEncoder::batch`] a batch, [`BatchEncoder::end`]
//! what belongs behind the last; each appends to the bytes it is given:
//!
//! ```ignore
//! let mut encoder = BatchEncoder::new(Encoding::Csv, &schema, &mut out)?;
//! while let Some(batch) = batches.next().await {
//!     encoder.batch(&batch?, &mut out)?;
//!     // send `out` and clear it
//! }
//! encoder.end(&mut out)?;
//! ```
//!
//! It takes any schema. Dictionaries are written as their values: a stream whose
//! dictionaries change from batch to batch is more than some readers take.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;

use super::csv;

/// What record batches are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/vnd.apache.arrow.stream`.
    Arrow,
    /// `text/csv`, as RFC 4180 has it, with a header row.
    Csv,
}

/// Why a batch cannot be written: a type that the encoding does not have.
#[derive(Debug, thiserror::Error)]
#[error("the rows cannot be encoded")]
pub struct EncodeError(#[from] ArrowError);

/// Writes batches of one schema.
#[derive(Debug)]
pub struct BatchEncoder {
    /// With the dictionaries' values in their place.
    schema: SchemaRef,
    writer: Writer,
}

enum Writer {
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Csv,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Writer::Arrow(_) => "Arrow",
            Writer::Csv => "Csv",
        })
    }
}

impl BatchEncoder {
    /// An encoder of batches with this schema, whose head is appended to `out`.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn new(
        encoding: Encoding,
        schema: &SchemaRef,
        out: &mut Vec<u8>,
    ) -> Result<BatchEncoder, EncodeError> {
        let schema = Arc::new(without_dictionaries(schema));
        let mut encoder = BatchEncoder { writer: Writer::Csv, schema };
        match encoding {
            Encoding::Csv => csv::put_header(&encoder.schema, out),
            Encoding::Arrow => {
                let writer = StreamWriter::try_new(Vec::new(), &encoder.schema)?;
                encoder.writer = Writer::Arrow(Box::new(writer));
                encoder.move_to(out);
            }
        }
        Ok(encoder)
    }

    /// Appends a batch's bytes to `out`.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn batch(&mut self, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let columns = batch.columns().iter().zip(self.schema.fields());
        let columns = columns.map(|(column, field)| plain(column, field)).collect::<Result<_, _>>()?;
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        match &mut self.writer {
            Writer::Csv => csv::put_rows(&batch, out)?,
            Writer::Arrow(writer) => writer.write(&batch)?,
        }
        self.move_to(out);
        Ok(())
    }

    /// Appends what ends the document.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Writer::Arrow(writer) = &mut self.writer {
            writer.finish()?;
        }
        self.move_to(out);
        Ok(())
    }

    /// What the writer wrote goes to `out`.
    fn move_to(&mut self, out: &mut Vec<u8>) {
        if let Writer::Arrow(writer) = &mut self.writer {
            out.append(writer.get_mut());
        }
    }
}

fn without_dictionaries(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Dictionary(_, value) => {
            Arc::new(Field::new(field.name(), value.as_ref().clone(), field.is_nullable()))
        }
        _ => field.clone(),
    });
    Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone())
}

fn plain(column: &ArrayRef, field: &Field) -> Result<ArrayRef, ArrowError> {
    if column.data_type() == field.data_type() { Ok(column.clone()) } else { cast(column, field.data_type()) }
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, DictionaryArray, Float64Array, Int64Array, TimestampMillisecondArray};
    use arrow::datatypes::Int32Type;
    use arrow::ipc::reader::StreamReader;

    use super::*;

    fn batch(texts: &[Option<&str>]) -> RecordBatch {
        let texts: DictionaryArray<Int32Type> = texts.iter().copied().collect();
        let rows = texts.keys().len();
        let times = TimestampMillisecondArray::from_iter_values((0..rows).map(|row| row as i64 * 1500));
        let columns: Vec<(&str, ArrayRef, bool)> = vec![
            ("text", Arc::new(texts), true),
            ("time", Arc::new(times.with_timezone("UTC")), false),
            (
                "number",
                Arc::new(Float64Array::from_iter_values((0..rows).map(|row| row as f64 / 2.0))),
                false,
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns).unwrap()
    }

    fn encoded(encoding: Encoding, batches: &[RecordBatch]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = BatchEncoder::new(encoding, &batches[0].schema(), &mut out).unwrap();
        for batch in batches {
            encoder.batch(batch, &mut out).unwrap();
        }
        encoder.end(&mut out).unwrap();
        out
    }

    #[test]
    fn an_arrow_stream_reads_back_though_its_dictionaries_change() {
        let batches = [batch(&[Some("a"), None]), batch(&[Some("b"), Some("a"), Some("c")])];
        let bytes = encoded(Encoding::Arrow, &batches);
        let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
        let read: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].schema().field(0).data_type(), &DataType::Utf8);
        let texts: Vec<_> = read.iter().flat_map(|batch| batch.column(0).as_string::<i32>().iter()).collect();
        assert_eq!(texts, [Some("a"), None, Some("b"), Some("a"), Some("c")]);
        assert_eq!(read[1].column(1), batches[1].column(1));
    }

    #[test]
    fn an_arrow_stream_without_batches_has_its_schema() {
        let mut out = Vec::new();
        let schema = batch(&[None]).schema();
        BatchEncoder::new(Encoding::Arrow, &schema, &mut out).unwrap().end(&mut out).unwrap();
        let mut reader = StreamReader::try_new(out.as_slice(), None).unwrap();
        assert_eq!(reader.schema().fields().len(), 3);
        assert!(reader.next().is_none());
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let bytes = encoded(Encoding::Csv, &[batch(&[Some("a,b"), None, Some("say \"x\"\n"), Some("")])]);
        let text = "text,time,number\r\n\
            \"a,b\",1970-01-01T00:00:00Z,0.0\r\n\
            ,1970-01-01T00:00:01.500Z,0.5\r\n\
            \"say \"\"x\"\"\n\",1970-01-01T00:00:03Z,1.0\r\n\
            \"\",1970-01-01T00:00:04.500Z,1.5\r\n";
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }

    #[test]
    fn a_batch_of_another_schema_is_refused() {
        let mut out = Vec::new();
        let mut encoder = BatchEncoder::new(Encoding::Csv, &batch(&[None]).schema(), &mut out).unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let other = RecordBatch::try_from_iter([("n", column)]).unwrap();
        assert!(encoder.batch(&other, &mut out).is_err());
    }
}
