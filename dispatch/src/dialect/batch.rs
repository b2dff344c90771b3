//! Several events in one body; only `standard` has it.
//!
//! `{"type":"batch","timestamp","events":[{"id","type","timestamp","data"}]}`. Each
//! event is what it would be alone, with its id beside, because the request's id is
//! the batch's own.

use super::write_json;

/// What a batch is called.
pub const BATCH_NAME: &str = "batch";

/// Writes one body, event by event.
#[derive(Debug)]
pub struct BatchWriter<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> BatchWriter<'a> {
    /// Appends the opening; `timestamp` is the newest event's.
    pub fn begin(timestamp: &str, out: &'a mut Vec<u8>) -> BatchWriter<'a> {
        out.extend_from_slice(br#"{"type":"#);
        write_json(BATCH_NAME, out);
        out.extend_from_slice(br#","timestamp":"#);
        write_json(timestamp, out);
        out.extend_from_slice(br#","events":["#);
        BatchWriter { out, is_first: true }
    }

    /// Appends an event; `data` appends one JSON value.
    pub fn event(&mut self, id: &str, name: &str, timestamp: &str, data: impl FnOnce(&mut Vec<u8>)) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        self.out.extend_from_slice(br#"{"id":"#);
        write_json(id, self.out);
        self.out.extend_from_slice(br#","type":"#);
        write_json(name, self.out);
        self.out.extend_from_slice(br#","timestamp":"#);
        write_json(timestamp, self.out);
        self.out.extend_from_slice(br#","data":"#);
        data(self.out);
        self.out.push(b'}');
    }

    /// Appends the closing.
    pub fn end(self) {
        self.out.extend_from_slice(b"]}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_whole_events_with_their_ids() {
        let mut out = Vec::new();
        let mut batch = BatchWriter::begin("2026-06-30T07:45:02Z", &mut out);
        batch.event("evt_1", "heart_rate.created", "2026-06-30T07:45:01Z", |out| {
            out.extend_from_slice(br#"{"n":1}"#);
        });
        batch.event("evt_2", "check_in.created", "2026-06-30T07:45:02Z", |out| out.extend_from_slice(b"2"));
        batch.end();
        let expected = concat!(
            r#"{"type":"batch","timestamp":"2026-06-30T07:45:02Z","events":["#,
            r#"{"id":"evt_1","type":"heart_rate.created","timestamp":"2026-06-30T07:45:01Z","data":{"n":1}},"#,
            r#"{"id":"evt_2","type":"check_in.created","timestamp":"2026-06-30T07:45:02Z","data":2}]}"#,
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
