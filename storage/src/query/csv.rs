//! CSV as RFC 4180 has it: lines end with CR LF, and a field that holds a comma, a
//! quote or a line's end is quoted. Nothing is an empty field, an empty text is a
//! quoted one.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Appends the names of the columns.
pub(super) fn put_header(schema: &Schema, out: &mut Vec<u8>) {
    for (at, field) in schema.fields().iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put_csv_text(out, field.name());
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends a batch's rows. Times are RFC 3339; of a type that has no text of its
/// own (lists, structs) Arrow's is taken.
pub(super) fn put_rows(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let options = FormatOptions::new().with_display_error(false);
    let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let mut field = String::new();
    for row in 0..batch.num_rows() {
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            if batch.column(at).is_null(row) {
                continue;
            }
            field.clear();
            column.value(row).write(&mut field)?;
            put_csv_text(out, &field);
        }
        out.extend_from_slice(b"\r\n");
    }
    Ok(())
}

/// Appends a text as a field, quoted where it has to be.
pub fn put_csv_text(out: &mut Vec<u8>, text: &str) {
    let special = |b: &u8| matches!(b, b'"' | b',' | b'\r' | b'\n');
    if !text.is_empty() && !text.as_bytes().iter().any(special) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
