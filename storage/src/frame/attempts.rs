//! The payload of an attempts frame: deliveries of one organisation that were tried.
//!
//! ```text
//!  0  u32 rows        u32 texts       u32 org (a text)     u32 zero
//! 16  columns, each one value a row behind the other:
//!       i64 at_ms     u64 sequence    u64 duration_us
//!       u32 group, number
//!       u32 endpoint, message, delivery, event_type, url, response_headers,
//!           response_body (texts), user, error (texts, or u32::MAX for none)
//!       u16 ordinal   u16 chunk       u16 status_code (0 for none)
//!       u8  kind      u8  trigger     u8  success
//!     u32 [texts]     where each text ends in the bytes behind
//!     the texts as UTF-8, one behind the other
//! ```
//!
//! Equal texts of a frame stand there once. An ordinal is the row's place in the frame
//! as it was committed: it stays when rows before it are erased, so the place of a row
//! in the order of all rows does, too.

use bytes::Bytes;
use hashbrown::HashMap;

use super::{Draft, FRAME_HEADER_BYTES, FrameFault, Header, Kind, Stamp, encode_erased, u32_at, u64_at};

/// Most rows of a frame: ordinals have 16 bits.
pub const ATTEMPT_ROWS_MAX: usize = u16::MAX as usize;
/// Bits of a row's tie that hold its ordinal.
const ORDINAL_BITS: u32 = 16;
const HEAD_BYTES: usize = 16;
const ABSENT: u32 = u32::MAX;

/// Columns of eight, four, two and one bytes, in the order of the layout.
const LONGS: usize = 3;
const NUMBERS: usize = 11;
const SHORTS: usize = 3;
const BYTES: usize = 3;
const ROW_BYTES: usize = LONGS * 8 + NUMBERS * 4 + SHORTS * 2 + BYTES;
/// The first column of texts among the columns of four bytes.
const FIRST_TEXT: usize = 2;
/// The last two of them may be absent.
const FIRST_OPTIONAL: usize = 9;

/// Why an attempt was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Trigger {
    /// It was due.
    Scheduled = 0,
    /// Somebody asked for it.
    Manual = 1,
    /// It carried an example.
    Test = 2,
}

impl Trigger {
    /// The trigger with this number, if there is one.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Trigger> {
        [Trigger::Scheduled, Trigger::Manual, Trigger::Test].into_iter().find(|it| *it as u8 == number)
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Scheduled => "scheduled",
            Trigger::Manual => "manual",
            Trigger::Test => "test",
        }
    }
}

/// One attempt, with texts of its own or borrowed ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptRow<T = String> {
    /// When it was made, milliseconds since 1970.
    pub at_ms: i64,
    /// Orders rows of the same time; unlike that of any other row. 0 in drafts: it
    /// comes from the row's place in the journal.
    pub tie: u64,
    /// Where it went.
    pub endpoint: T,
    /// What was delivered.
    pub message: T,
    /// The attempt's own id.
    pub delivery: T,
    /// The message's place: the frame it stands in; 0 if it stands in none.
    pub sequence: u64,
    /// The message's place: first group.
    pub group: u32,
    /// The message's place: which part.
    pub chunk: u16,
    /// The message's place: what it is.
    pub kind: u8,
    /// The user it is about.
    pub user: Option<T>,
    /// What it is called.
    pub event_type: T,
    /// Counts the attempts of a message, from 1.
    pub number: u32,
    /// Why it was made.
    pub trigger: Trigger,
    /// Whether it arrived.
    pub success: bool,
    /// The answer's status.
    pub status_code: Option<u16>,
    /// Why it did not arrive.
    pub error: Option<T>,
    /// How long it took, microseconds.
    pub duration_us: u64,
    /// Where it was sent.
    pub url: T,
    /// The answer's headers, JSON.
    pub response_headers: T,
    /// The answer's first bytes, as text.
    pub response_body: T,
}

impl<T: AsRef<str>> AttemptRow<T> {
    /// The same with borrowed texts.
    #[must_use]
    pub fn borrowed(&self) -> AttemptRow<&str> {
        AttemptRow {
            at_ms: self.at_ms,
            tie: self.tie,
            endpoint: self.endpoint.as_ref(),
            message: self.message.as_ref(),
            delivery: self.delivery.as_ref(),
            sequence: self.sequence,
            group: self.group,
            chunk: self.chunk,
            kind: self.kind,
            user: self.user.as_ref().map(AsRef::as_ref),
            event_type: self.event_type.as_ref(),
            number: self.number,
            trigger: self.trigger,
            success: self.success,
            status_code: self.status_code,
            error: self.error.as_ref().map(AsRef::as_ref),
            duration_us: self.duration_us,
            url: self.url.as_ref(),
            response_headers: self.response_headers.as_ref(),
            response_body: self.response_body.as_ref(),
        }
    }
}

impl AttemptRow<&str> {
    /// The same with texts of its own.
    #[must_use]
    pub fn owned(&self) -> AttemptRow {
        AttemptRow {
            at_ms: self.at_ms,
            tie: self.tie,
            endpoint: self.endpoint.to_owned(),
            message: self.message.to_owned(),
            delivery: self.delivery.to_owned(),
            sequence: self.sequence,
            group: self.group,
            chunk: self.chunk,
            kind: self.kind,
            user: self.user.map(str::to_owned),
            event_type: self.event_type.to_owned(),
            number: self.number,
            trigger: self.trigger,
            success: self.success,
            status_code: self.status_code,
            error: self.error.map(str::to_owned),
            duration_us: self.duration_us,
            url: self.url.to_owned(),
            response_headers: self.response_headers.to_owned(),
            response_body: self.response_body.to_owned(),
        }
    }

    fn texts(&self) -> [Option<&str>; NUMBERS - FIRST_TEXT] {
        [
            Some(self.endpoint),
            Some(self.message),
            Some(self.delivery),
            Some(self.event_type),
            Some(self.url),
            Some(self.response_headers),
            Some(self.response_body),
            self.user,
            self.error,
        ]
    }
}

/// Encodes attempts of one organisation.
///
/// # Panics
/// If there are more than [`ATTEMPT_ROWS_MAX`], or more bytes than a frame takes: callers
/// bound both far below.
#[must_use]
pub fn encode_attempts<T: AsRef<str>>(org: &str, rows: &[AttemptRow<T>]) -> Draft {
    assert!(rows.len() <= ATTEMPT_ROWS_MAX, "{} rows in one frame", rows.len());
    let rows = (0..).zip(rows).map(|(ordinal, row)| (ordinal, row.borrowed())).collect::<Vec<_>>();
    encode(org, &rows)
}

fn encode(org: &str, rows: &[(u16, AttemptRow<&str>)]) -> Draft {
    let mut table = TextTable::default();
    let org = table.number(org);
    let texts: Vec<_> = rows
        .iter()
        .map(|(_, row)| row.texts().map(|text| text.map_or(ABSENT, |it| table.number(it))))
        .collect();
    let small = |number: usize| u32::try_from(number).expect("a frame is at most 64 MiB");
    let capacity = HEAD_BYTES + rows.len() * ROW_BYTES + table.ends.len() * 4 + table.bytes.len();
    Draft::build(Kind::Attempts, false, capacity, |out| {
        for number in [small(rows.len()), small(table.ends.len()), org, 0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&row.at_ms.to_le_bytes()));
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&row.sequence.to_le_bytes()));
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&row.duration_us.to_le_bytes()));
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&row.group.to_le_bytes()));
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&row.number.to_le_bytes()));
        for column in 0..NUMBERS - FIRST_TEXT {
            texts.iter().for_each(|of_row| out.extend_from_slice(&of_row[column].to_le_bytes()));
        }
        rows.iter().for_each(|(ordinal, _)| out.extend_from_slice(&ordinal.to_le_bytes()));
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&row.chunk.to_le_bytes()));
        let status = |row: &AttemptRow<&str>| row.status_code.unwrap_or(0);
        rows.iter().for_each(|(_, row)| out.extend_from_slice(&status(row).to_le_bytes()));
        out.extend(rows.iter().map(|(_, row)| row.kind));
        out.extend(rows.iter().map(|(_, row)| row.trigger as u8));
        out.extend(rows.iter().map(|(_, row)| u8::from(row.success)));
        table.ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        out.extend_from_slice(&table.bytes);
    })
}

/// Texts, each once.
#[derive(Default)]
struct TextTable<'a> {
    numbers: HashMap<&'a str, u32>,
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

impl<'a> TextTable<'a> {
    fn number(&mut self, text: &'a str) -> u32 {
        *self.numbers.entry(text).or_insert_with(|| {
            self.bytes.extend_from_slice(text.as_bytes());
            self.ends.push(u32::try_from(self.bytes.len()).expect("a frame is at most 64 MiB"));
            u32::try_from(self.ends.len() - 1).expect("fewer texts than bytes")
        })
    }
}

/// An attempts frame, immutable and cheap to clone.
#[derive(Clone, Debug)]
pub struct AttemptsFrame {
    bytes: Bytes,
    header: Header,
    rows: usize,
    texts: usize,
}

impl AttemptsFrame {
    /// Reads a sealed frame whose checksum is known to be right.
    ///
    /// # Errors
    /// [`FrameFault`] if the payload contradicts itself.
    pub fn parse(bytes: Bytes) -> Result<AttemptsFrame, FrameFault> {
        let fault = |what| FrameFault::Payload { what };
        let header = Header::read(&bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
        let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes.get(FRAME_HEADER_BYTES..end).ok_or(fault("shorter than its length"))?;
        if payload.len() < HEAD_BYTES {
            return Err(fault("shorter than its head"));
        }
        let (rows, texts) = (u32_at(payload, 0) as usize, u32_at(payload, 4) as usize);
        if rows > ATTEMPT_ROWS_MAX || HEAD_BYTES + rows * ROW_BYTES + texts * 4 > payload.len() {
            return Err(fault("its columns do not fit"));
        }
        let frame = AttemptsFrame { bytes, header, rows, texts };
        frame.check().map_err(fault)?;
        Ok(frame)
    }

    fn check(&self) -> Result<(), &'static str> {
        self.check_texts()?;
        if u32_at(self.payload(), 12) != 0 || u32_at(self.payload(), 8) as usize >= self.texts {
            return Err("its head is not as it must be");
        }
        for column in FIRST_TEXT..NUMBERS {
            let optional = column >= FIRST_OPTIONAL;
            let known = |text: u32| (text as usize) < self.texts || optional && text == ABSENT;
            if !(0..self.rows).all(|row| known(self.u32(column, row))) {
                return Err("a row names a text that is not there");
            }
        }
        if !(1..self.rows).all(|row| self.u16(0, row - 1) < self.u16(0, row)) {
            return Err("its ordinals do not rise");
        }
        let is_known = |row| Trigger::from_number(self.u8(1, row)).is_some() && self.u8(2, row) <= 1;
        if (0..self.rows).all(is_known) { Ok(()) } else { Err("a trigger or outcome is unknown") }
    }

    fn check_texts(&self) -> Result<(), &'static str> {
        let bytes = &self.payload()[self.texts_at()..];
        let all = std::str::from_utf8(bytes).map_err(|_| "a text is none")?;
        let mut start = 0;
        for text in 0..self.texts {
            let end = self.text_end(text);
            if end < start || !all.is_char_boundary(end) {
                return Err("its texts do not add up");
            }
            start = end;
        }
        if start == all.len() { Ok(()) } else { Err("its texts do not add up") }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whose attempts they are.
    #[must_use]
    pub fn org(&self) -> &str {
        self.text(u32_at(self.payload(), 8)).unwrap_or_default()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// If there are not so many.
    #[must_use]
    pub fn row(&self, row: usize) -> AttemptRow<&str> {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let text = |column: usize| self.text(self.u32(FIRST_TEXT + column, row));
        let some = |column: usize| text(column).unwrap_or_default();
        AttemptRow {
            at_ms: self.u64(0, row).cast_signed(),
            tie: tie(&self.header.stamp, self.u16(0, row)),
            endpoint: some(0),
            message: some(1),
            delivery: some(2),
            sequence: self.u64(1, row),
            group: self.u32(0, row),
            chunk: self.u16(1, row),
            kind: self.u8(0, row),
            user: text(7),
            event_type: some(3),
            number: self.u32(1, row),
            trigger: Trigger::from_number(self.u8(1, row)).unwrap_or(Trigger::Scheduled),
            success: self.u8(2, row) == 1,
            status_code: Some(self.u16(2, row)).filter(|code| *code > 0),
            error: text(8),
            duration_us: self.u64(2, row),
            url: some(4),
            response_headers: some(5),
            response_body: some(6),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = AttemptRow<&str>> {
        (0..self.rows).map(|row| self.row(row))
    }

    /// This frame without the rows that are `gone`, with the same stamp; `None` if no
    /// row is.
    #[must_use]
    pub fn without(&self, mut gone: impl FnMut(&AttemptRow<&str>) -> bool) -> Option<Vec<u8>> {
        let kept: Vec<(u16, AttemptRow<&str>)> = (0..self.rows)
            .map(|row| (self.u16(0, row), self.row(row)))
            .filter(|(_, row)| !gone(row))
            .collect();
        if kept.len() == self.rows {
            return None;
        }
        let draft = if kept.is_empty() { encode_erased() } else { encode(self.org(), &kept) };
        Some(draft.seal(self.header.stamp))
    }

    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + self.header.payload_bytes as usize]
    }

    fn u64(&self, column: usize, row: usize) -> u64 {
        u64_at(self.payload(), HEAD_BYTES + (column * self.rows + row) * 8)
    }

    fn u32(&self, column: usize, row: usize) -> u32 {
        u32_at(self.payload(), HEAD_BYTES + self.rows * LONGS * 8 + (column * self.rows + row) * 4)
    }

    fn u16(&self, column: usize, row: usize) -> u16 {
        let at = HEAD_BYTES + self.rows * (LONGS * 8 + NUMBERS * 4) + (column * self.rows + row) * 2;
        let payload = self.payload();
        u16::from_le_bytes([payload[at], payload[at + 1]])
    }

    fn u8(&self, column: usize, row: usize) -> u8 {
        let before = LONGS * 8 + NUMBERS * 4 + SHORTS * 2;
        self.payload()[HEAD_BYTES + self.rows * before + column * self.rows + row]
    }

    fn texts_at(&self) -> usize {
        HEAD_BYTES + self.rows * ROW_BYTES + self.texts * 4
    }

    fn text_end(&self, text: usize) -> usize {
        u32_at(self.payload(), HEAD_BYTES + self.rows * ROW_BYTES + text * 4) as usize
    }

    /// The text with a number; none for [`ABSENT`].
    fn text(&self, number: u32) -> Option<&str> {
        let number = number as usize;
        if number >= self.texts {
            return None;
        }
        let start = number.checked_sub(1).map_or(0, |before| self.text_end(before));
        let (start, end) = (self.texts_at() + start, self.texts_at() + self.text_end(number));
        std::str::from_utf8(&self.payload()[start..end]).ok()
    }
}

/// Orders rows of one time as they were committed: the frame's counter, then the
/// ordinal. The epoch is left out, so rows of two epochs and one millisecond may come in
/// either order.
fn tie(stamp: &Stamp, ordinal: u16) -> u64 {
    stamp.sequence.0 << ORDINAL_BITS | u64::from(ordinal)
}

/// The frame that a row with this tie came with.
#[must_use]
pub fn frame_of_tie(tie: u64) -> super::Sequence {
    super::Sequence(tie >> ORDINAL_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Frame, Sequence, verify};

    fn stamp() -> Stamp {
        Stamp { sequence: Sequence(7), synced: Sequence(6), ordering: 1, committed_at: 1_000_000 }
    }

    fn row(at_ms: i64, user: Option<&str>, error: Option<&str>) -> AttemptRow {
        AttemptRow {
            at_ms,
            tie: 0,
            endpoint: "ep_1".into(),
            message: format!("evt_{at_ms}"),
            delivery: format!("dlv_{at_ms}"),
            sequence: 5,
            group: 3,
            chunk: 2,
            kind: 1,
            user: user.map(str::to_owned),
            event_type: "heart_rate.created".into(),
            number: 4,
            trigger: Trigger::Manual,
            success: error.is_none(),
            status_code: error.is_none().then_some(204),
            error: error.map(str::to_owned),
            duration_us: 12_345,
            url: "https://example.org/müde".into(),
            response_headers: "{}".into(),
            response_body: String::new(),
        }
    }

    fn rows() -> Vec<AttemptRow> {
        vec![row(10, Some("u_1"), None), row(-5, None, Some("timeout")), row(10, Some("u_2"), Some(""))]
    }

    fn sealed() -> Vec<u8> {
        encode_attempts("acme", &rows()).seal(stamp())
    }

    fn read(bytes: Vec<u8>) -> Vec<AttemptRow> {
        let frame = AttemptsFrame::parse(bytes.into()).unwrap();
        assert_eq!((frame.org(), frame.header().stamp), ("acme", stamp()));
        frame.iter().map(|row| row.owned()).collect()
    }

    #[test]
    fn attempts_are_read_as_they_were_written_with_the_place_of_each() {
        let mut expected = rows();
        for (row, ordinal) in expected.iter_mut().zip(0..) {
            row.tie = 7 << 16 | ordinal;
            assert_eq!(frame_of_tie(row.tie), Sequence(7));
        }
        assert_eq!(read(sealed()), expected);
        let Frame::Attempts(frame) = Frame::parse(sealed().into()).unwrap() else {
            panic!("it holds attempts")
        };
        assert_eq!(frame.len(), 3);
    }

    #[test]
    fn a_frame_without_rows_keeps_the_places_of_the_others_and_is_not_longer() {
        let frame = AttemptsFrame::parse(sealed().into()).unwrap();
        assert!(frame.without(|row| row.user == Some("u_9")).is_none());
        let shorter = frame.without(|row| row.user == Some("u_1")).unwrap();
        assert!(shorter.len() < sealed().len());
        assert!(!shorter.windows(3).any(|bytes| bytes == b"u_1"));
        let whole = read(sealed());
        assert_eq!(read(shorter), whole[1..]);
        let none = frame.without(|_| true).unwrap();
        assert_eq!(verify(&none).unwrap().kind, Kind::Erased as u8);
    }

    #[test]
    fn any_changed_byte_is_refused_or_decodes_to_the_same() {
        let (whole, expected) = (sealed(), read(sealed()));
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                if verify(&bytes).is_ok() {
                    assert_eq!(read(bytes), expected, "byte {at}, bit {bit}");
                }
            }
        }
    }

    /// Behind the checksum, for one that happens to fit: nothing is read beyond the frame.
    #[test]
    fn malformed_payloads_are_refused_or_read_within_their_bounds() {
        let whole = sealed();
        let mut refused = 0;
        for at in FRAME_HEADER_BYTES..whole.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = value;
                match AttemptsFrame::parse(bytes.into()) {
                    Ok(frame) => assert!(frame.iter().count() <= 3 && frame.org().len() < whole.len()),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 200, "{refused}");
        let bytes = Bytes::from(whole);
        let length = FRAME_HEADER_BYTES + Header::read(&bytes).unwrap().payload_bytes as usize;
        for end in 0..length {
            assert!(AttemptsFrame::parse(bytes.slice(..end)).is_err(), "{end}");
        }
    }
}
