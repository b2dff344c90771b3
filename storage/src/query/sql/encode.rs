//! Rows of any columns as bytes: JSON, CSV or an Arrow stream.
//!
//! Times print as everywhere: RFC 3339 in UTC with `Z` (without where a column has no
//! zone), the fraction only if it is not zero. What JSON has no number for (NaN,
//! infinities) is `null`; in CSV `null` is an empty field.

use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, UInt64Type};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;

/// Rows printed at a time: a few hundred kilobytes.
pub(super) const CHUNK_ROWS: usize = 2048;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SqlFormat {
    /// `{"columns":[{"name","type"}],"rows":[[...]]}`
    Json,
    /// A header line, then a line a row.
    Csv,
    /// The Arrow IPC stream format.
    Arrow,
}

/// Writes an answer, a piece at a time.
pub(super) enum Encoder {
    Json { schema: SchemaRef, begun: bool, rows: bool },
    Csv { schema: SchemaRef, begun: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl Encoder {
    pub(super) fn new(format: SqlFormat, schema: &SchemaRef) -> Result<Encoder, ArrowError> {
        let schema = schema.clone();
        Ok(match format {
            SqlFormat::Json => Encoder::Json { schema, begun: false, rows: false },
            SqlFormat::Csv => Encoder::Csv { schema, begun: false },
            SqlFormat::Arrow => {
                Encoder::Arrow(Box::new(StreamWriter::try_new(Vec::new(), &portable_schema(&schema))?))
            }
        })
    }

    /// The bytes of some rows, with what stands before the first of them.
    pub(super) fn rows(&mut self, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
        match self {
            Encoder::Json { schema, begun, rows } => {
                let mut out = Vec::with_capacity(batch.num_rows() * batch.num_columns() * 12 + 256);
                if !std::mem::replace(begun, true) {
                    put_columns(schema, &mut out);
                }
                let columns = batch.columns().iter().map(Column::new).collect::<Result<Vec<_>, _>>()?;
                for row in 0..batch.num_rows() {
                    if std::mem::replace(rows, true) {
                        out.push(b',');
                    }
                    put_list(&columns, row, &mut out);
                }
                Ok(out.into())
            }
            Encoder::Csv { schema, begun } => {
                let mut out = Vec::with_capacity(batch.num_rows() * batch.num_columns() * 12 + 256);
                if !std::mem::replace(begun, true) {
                    put_header(schema, &mut out);
                }
                let columns = batch.columns().iter().map(Column::new).collect::<Result<Vec<_>, _>>()?;
                let mut field = Vec::new();
                for row in 0..batch.num_rows() {
                    put_line(columns.iter().map(Some), &mut out, |column, out| {
                        field.clear();
                        if column.put_plain(row, &mut field) {
                            put_field(&field, out);
                        }
                    });
                }
                Ok(out.into())
            }
            Encoder::Arrow(writer) => {
                writer.write(&portable(batch)?)?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }

    /// What stands behind the last row.
    pub(super) fn end(mut self) -> Result<Bytes, ArrowError> {
        match &mut self {
            Encoder::Json { schema, begun, .. } => {
                let mut out = Vec::new();
                if !*begun {
                    put_columns(schema, &mut out);
                }
                out.extend_from_slice(b"]}");
                Ok(out.into())
            }
            Encoder::Csv { schema, begun } => {
                let mut out = Vec::new();
                if !*begun {
                    put_header(schema, &mut out);
                }
                Ok(out.into())
            }
            Encoder::Arrow(writer) => {
                writer.finish()?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }
}

/// What a type is called in answers.
pub(super) fn type_name(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Null => "null",
        DataType::Boolean => "boolean",
        DataType::Int8 => "int8",
        DataType::Int16 => "int16",
        DataType::Int32 => "int32",
        DataType::Int64 => "int64",
        DataType::UInt8 => "uint8",
        DataType::UInt16 => "uint16",
        DataType::UInt32 => "uint32",
        DataType::UInt64 => "uint64",
        DataType::Float16 => "float16",
        DataType::Float32 => "float32",
        DataType::Float64 => "float64",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Timestamp(_, Some(_)) => "timestamp",
        DataType::Timestamp(_, None) => "timestamp without zone",
        DataType::Date32 | DataType::Date64 => "date",
        DataType::Time32(_) | DataType::Time64(_) => "time",
        DataType::Duration(_) | DataType::Interval(_) => "interval",
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => "decimal",
        DataType::Dictionary(_, value) => type_name(value),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            "binary"
        }
        DataType::Struct(_) => "object",
        DataType::Map(..) => "map",
        _ => "list",
    }
}

fn put_columns(schema: &Schema, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"columns\":[");
    for (at, field) in schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"name\":");
        put_text(field.name(), out);
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(type_name(field.data_type()).as_bytes());
        out.extend_from_slice(b"\"}");
    }
    out.extend_from_slice(b"],\"rows\":[");
}

fn put_header(schema: &Schema, out: &mut Vec<u8>) {
    put_line(schema.fields().iter().map(Some), out, |field, out| put_field(field.name().as_bytes(), out));
}

fn put_line<'a, T: 'a>(
    items: impl Iterator<Item = Option<&'a T>>,
    out: &mut Vec<u8>,
    mut put: impl FnMut(&T, &mut Vec<u8>),
) {
    for (at, item) in items.flatten().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put(item, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// A field of CSV, quoted where it must be (RFC 4180).
fn put_field(field: &[u8], out: &mut Vec<u8>) {
    if !field.is_empty() && !field.iter().any(|byte| matches!(byte, b'"' | b',' | b'\r' | b'\n')) {
        out.extend_from_slice(field);
        return;
    }
    out.push(b'"');
    for byte in field {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// A row as a JSON list.
fn put_list(columns: &[Column], row: usize, out: &mut Vec<u8>) {
    out.push(b'[');
    for (at, column) in columns.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        column.put(row, out);
    }
    out.push(b']');
}

/// A column, ready to be printed a value at a time.
struct Column {
    /// Tells which values are there.
    array: ArrayRef,
    kind: Kind,
}

enum Kind {
    Null,
    Boolean,
    Int(Int64Array),
    Uint(UInt64Array),
    Float(arrow::array::Float64Array),
    /// Nanoseconds of one step, whether it is an instant, and the steps.
    Time(i128, bool, Int64Array),
    Text(StringViewArray),
    /// A number that is printed from the decimal digits.
    Digits,
    /// Anything else, as a text.
    Shown,
    List(OffsetBuffer<i32>, Box<Column>),
    Object(Vec<(String, Column)>),
}

impl Column {
    fn new(array: &ArrayRef) -> Result<Column, ArrowError> {
        let as_int =
            || Ok::<_, ArrowError>(cast(array, &DataType::Int64)?.as_primitive::<Int64Type>().clone());
        let kind = match array.data_type() {
            DataType::Null => Kind::Null,
            DataType::Boolean => Kind::Boolean,
            DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => Kind::Int(as_int()?),
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
                Kind::Uint(cast(array, &DataType::UInt64)?.as_primitive::<UInt64Type>().clone())
            }
            DataType::Float16 | DataType::Float32 | DataType::Float64 => {
                Kind::Float(cast(array, &DataType::Float64)?.as_primitive::<Float64Type>().clone())
            }
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
                Kind::Text(cast(array, &DataType::Utf8View)?.as_string_view().clone())
            }
            DataType::Timestamp(unit, zone) => Kind::Time(nanoseconds(*unit), zone.is_some(), as_int()?),
            DataType::Decimal32(..)
            | DataType::Decimal64(..)
            | DataType::Decimal128(..)
            | DataType::Decimal256(..) => Kind::Digits,
            DataType::Dictionary(_, value) => return Column::new(&cast(array, value)?),
            DataType::List(_) => {
                let list = array.as_list::<i32>();
                Kind::List(list.offsets().clone(), Box::new(Column::new(list.values())?))
            }
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                return Column::new(&cast(array, &DataType::List(item.clone()))?);
            }
            DataType::Struct(fields) => {
                let members = fields.iter().zip(array.as_struct().columns());
                let members = members.map(|(field, column)| Ok((field.name().clone(), Column::new(column)?)));
                Kind::Object(members.collect::<Result<_, ArrowError>>()?)
            }
            _ => Kind::Shown,
        };
        Ok(Column { array: array.clone(), kind })
    }

    /// A value as JSON.
    fn put(&self, row: usize, out: &mut Vec<u8>) {
        let quoted = matches!(self.kind, Kind::Time(..) | Kind::Shown);
        if let (Kind::Text(texts), true) = (&self.kind, self.array.is_valid(row)) {
            return put_text(texts.value(row), out);
        }
        let begin = out.len();
        if quoted {
            out.push(b'"');
        }
        if !self.put_plain(row, out) {
            out.truncate(begin);
            return out.extend_from_slice(b"null");
        }
        if quoted {
            out.push(b'"');
        }
    }

    /// A value without quotes; false if there is none.
    fn put_plain(&self, row: usize, out: &mut Vec<u8>) -> bool {
        if self.array.is_null(row) {
            return false;
        }
        match &self.kind {
            Kind::Null => return false,
            Kind::Boolean => {
                out.extend_from_slice(if self.array.as_boolean().value(row) { b"true" } else { b"false" });
            }
            Kind::Int(numbers) => print(out, format_args!("{}", numbers.value(row))),
            Kind::Uint(numbers) => print(out, format_args!("{}", numbers.value(row))),
            Kind::Float(numbers) => {
                let number = numbers.value(row);
                if !number.is_finite() {
                    return false;
                }
                // The shortest that reads back, with a point or an exponent.
                print(out, format_args!("{number:?}"));
            }
            Kind::Time(step, instant, steps) => put_time(i128::from(steps.value(row)) * step, *instant, out),
            Kind::Text(texts) => out.extend_from_slice(texts.value(row).as_bytes()),
            Kind::Digits | Kind::Shown => {
                let options = FormatOptions::default();
                let Ok(formatter) = ArrayFormatter::try_new(self.array.as_ref(), &options) else {
                    return false;
                };
                // None of these types prints a quote or a backslash but binary, as hex.
                print(out, format_args!("{}", formatter.value(row)));
            }
            Kind::List(offsets, values) => {
                let range = offsets[row] as usize..offsets[row + 1] as usize;
                out.push(b'[');
                for at in range.clone() {
                    if at > range.start {
                        out.push(b',');
                    }
                    values.put(at, out);
                }
                out.push(b']');
            }
            Kind::Object(members) => {
                out.push(b'{');
                for (at, (name, column)) in members.iter().enumerate() {
                    if at > 0 {
                        out.push(b',');
                    }
                    put_text(name, out);
                    out.push(b':');
                    column.put(row, out);
                }
                out.push(b'}');
            }
        }
        true
    }
}

fn nanoseconds(unit: TimeUnit) -> i128 {
    match unit {
        TimeUnit::Second => 1_000_000_000,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    }
}

fn print(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

/// A time, `nanoseconds` since 1970.
fn put_time(nanoseconds: i128, instant: bool, out: &mut Vec<u8>) {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    print(out, format_args!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}", second % 60));
    match fraction {
        0 => {}
        _ if fraction % 1_000_000 == 0 => print(out, format_args!(".{:03}", fraction / 1_000_000)),
        _ if fraction % 1_000 == 0 => print(out, format_args!(".{:06}", fraction / 1_000)),
        _ => print(out, format_args!(".{fraction:09}")),
    }
    if instant {
        out.push(b'Z');
    }
}

/// Year, month and day of a day since 1970, in the proleptic Gregorian calendar, in eras
/// of 400 years that begin on 1 March. Statements compute any time there is.
fn civil(day: i128) -> (i128, i128, i128) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i128::from(month <= 2), month, of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// A text as JSON, quotes included.
fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[rest..at]);
        rest = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => print(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&text.as_bytes()[rest..]);
    out.push(b'"');
}

/// Views are younger than many readers of Arrow: texts go out as plain ones.
fn portable_schema(schema: &Schema) -> Schema {
    let plain = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8View => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8)),
        DataType::BinaryView => Arc::new(field.as_ref().clone().with_data_type(DataType::Binary)),
        _ => field.clone(),
    };
    Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>())
}

fn portable(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = Arc::new(portable_schema(&batch.schema()));
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(|(column, field)| match column.data_type() == field.data_type() {
        true => Ok(column.clone()),
        false => cast(column, field.data_type()),
    });
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns.collect::<Result<_, _>>()?, &options)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, ListArray, NullArray, StringArray, TimestampNanosecondArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn batch() -> RecordBatch {
        let times = vec![Some(1_782_805_500_000_000_000), Some(-1_000_000), None, Some(1)];
        let lists = vec![Some(vec![Some(1), None]), None, Some(vec![]), Some(vec![Some(2)])];
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("text", Arc::new(StringArray::from(vec![Some("a"), Some("q\"\n,\u{1}é"), None, Some("")]))),
            ("float", Arc::new(Float64Array::from(vec![62.0, f64::NAN, f64::INFINITY, -0.5e300]))),
            ("time", Arc::new(TimestampNanosecondArray::from(times.clone()).with_timezone("Europe/Berlin"))),
            ("naive", Arc::new(TimestampNanosecondArray::from(times))),
            ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
            ("none", Arc::new(NullArray::new(4))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn encoded(format: SqlFormat, batches: &[RecordBatch]) -> Vec<u8> {
        let mut encoder = Encoder::new(format, &batch().schema()).unwrap();
        let mut out = Vec::new();
        for batch in batches {
            out.extend_from_slice(&encoder.rows(batch).unwrap());
        }
        out.extend_from_slice(&encoder.end().unwrap());
        out
    }

    #[test]
    fn json_has_a_value_for_everything() {
        let text = String::from_utf8(encoded(SqlFormat::Json, &[batch()])).unwrap();
        let expected = concat!(
            r#"{"columns":[{"name":"text","type":"text"},{"name":"float","type":"float64"},"#,
            r#"{"name":"time","type":"timestamp"},{"name":"naive","type":"timestamp without zone"},"#,
            r#"{"name":"list","type":"list"},{"name":"none","type":"null"}],"rows":["#,
            r#"["a",62.0,"2026-06-30T07:45:00Z","2026-06-30T07:45:00",[1,null],null],"#,
            r#"["q\"\n,\u0001é",null,"1969-12-31T23:59:59.999Z","1969-12-31T23:59:59.999",null,null],"#,
            r#"[null,null,null,null,[],null],"#,
            r#"["",-5e299,"1970-01-01T00:00:00.000000001Z","1970-01-01T00:00:00.000000001",[2],null]]}"#
        );
        assert_eq!(text, expected);
        let halves = [batch().slice(0, 1), batch().slice(1, 3)];
        assert_eq!(String::from_utf8(encoded(SqlFormat::Json, &halves)).unwrap(), expected);
        let empty = String::from_utf8(encoded(SqlFormat::Json, &[])).unwrap();
        assert!(empty.ends_with(r#""type":"null"}],"rows":[]}"#), "{empty}");
    }

    #[test]
    fn csv_tells_an_empty_text_from_none() {
        let text = String::from_utf8(encoded(SqlFormat::Csv, &[batch()])).unwrap();
        let expected = "text,float,time,naive,list,none\r\n\
            a,62.0,2026-06-30T07:45:00Z,2026-06-30T07:45:00,\"[1,null]\",\r\n\
            \"q\"\"\n,\u{1}é\",,1969-12-31T23:59:59.999Z,1969-12-31T23:59:59.999,,\r\n\
            ,,,,[],\r\n\
            \"\",-5e299,1970-01-01T00:00:00.000000001Z,1970-01-01T00:00:00.000000001,[2],\r\n";
        assert_eq!(text, expected);
        assert_eq!(encoded(SqlFormat::Csv, &[]), b"text,float,time,naive,list,none\r\n");
    }

    #[test]
    fn arrow_reads_back() {
        let bytes = encoded(SqlFormat::Arrow, &[batch(), batch().slice(1, 2)]);
        let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
        let rows: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
        assert_eq!(rows, [batch(), batch().slice(1, 2)]);
    }
}
