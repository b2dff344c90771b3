//! Decoding a batch: from bytes to the engine's columns.
//!
//! A batch of points that are written alike is decoded by `alike`. What that leaves is
//! parsed here, and so are all faults found.
//!
//! simd-json turns the body into a tape in place: nodes in document order, whose
//! strings are borrowed from the body. The tape is walked once. Fields may stand
//! in any order, unknown ones are skipped, of several with one name the last
//! counts, and `null` in an optional field is an absent field.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use simd_json::{ErrorType, INPUT_PADDING, Node, StaticNode, Tape};
use systole_engine::{Batch, BlockedUsers, FaultKind, Point, Registry};

use super::alike;
use super::pool::Scratch;
use super::user::{USER_MISMATCH, UserFault, UserRule};
use crate::error::{Entry, Place, Refusal};

/// Bad points that are named; the others are only counted.
const DETAIL_MAX: usize = 100;
/// Bodies from this length on are counted before they are parsed.
const COUNT_FROM_BYTES: usize = 1024 * 1024;
/// Most separators of a long body. A value takes 24 bytes of tape, so a body of
/// nothing but commas would take 24 times its length; a long but honest batch has
/// 1.5 million.
const SEPARATORS_MAX: usize = 4 * 1024 * 1024;

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One point.
    One,
    /// `{"data_points":[...]}`.
    Bulk,
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) points_max: usize,
}

/// What became of the points; the good ones are in the scratch's batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) accepted: usize,
    pub(super) rejected: usize,
    /// The first [`DETAIL_MAX`] bad points, one entry each.
    pub(super) detail: Vec<Entry>,
}

/// Decodes `body`, which is overwritten.
pub(super) fn decode(
    shape: Shape,
    body: &mut Vec<u8>,
    scratch: &mut Scratch,
    registry: &Registry,
    users: UserRule<'_>,
    limits: Limits,
    blocked: Option<Arc<BlockedUsers>>,
) -> Result<Decoded, Refusal> {
    let now_ms = now_ms();
    scratch.begin(now_ms, blocked.clone());
    if shape == Shape::Bulk {
        let batch = &mut scratch.batch;
        let take = |point: &Point<'_>| batch.push(registry, point).is_ok();
        if let Some(accepted) = alike::decode(body, users, limits.points_max, take) {
            return Ok(Decoded { accepted, ..Decoded::default() });
        }
        scratch.begin(now_ms, blocked);
    }
    parse(shape, body, scratch, registry, users, limits)
}

/// Decodes any body with the parser, into a scratch that has just begun.
pub(super) fn parse(
    shape: Shape,
    body: &mut Vec<u8>,
    scratch: &mut Scratch,
    registry: &Registry,
    users: UserRule<'_>,
    limits: Limits,
) -> Result<Decoded, Refusal> {
    check_separators(body)?;
    let len = body.len();
    scratch.longest_bytes = scratch.longest_bytes.max(len);
    body.resize(len + INPUT_PADDING, b' ');
    let mut tape = std::mem::replace(&mut scratch.tape, Tape(Vec::new())).reset();
    let parsed = simd_json::fill_tape_padded(body, len, &mut scratch.buffers, &mut tape);
    let walked = parsed.is_ok().then(|| {
        let mut points = Points { batch: &mut scratch.batch, registry, users, decoded: Decoded::default() };
        points.take(shape, &tape.0, limits).map(|()| points.decoded)
    });
    let strings = if parsed.is_err() { strings_of(&tape.0) } else { 0 };
    scratch.tape = tape.reset();
    match (parsed, walked) {
        (Err(fault), _) => {
            let broken =
                Broken { body: &body[..len], structurals: scratch.buffers.structural_indexes(), strings };
            Err(broken.refusal(&fault))
        }
        (Ok(()), walked) => walked.unwrap_or_else(|| Ok(Decoded::default())),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn check_separators(body: &[u8]) -> Result<(), Refusal> {
    if body.len() < COUNT_FROM_BYTES {
        return Ok(());
    }
    let separator = |byte: &&u8| matches!(byte, b',' | b':' | b'[' | b']' | b'{' | b'}');
    if body.iter().filter(separator).count() > SEPARATORS_MAX {
        return Err(Refusal::TooManyValues { limit: SEPARATORS_MAX });
    }
    Ok(())
}

/// The points of one body on their way into the batch.
struct Points<'a> {
    batch: &'a mut Batch,
    registry: &'a Registry,
    users: UserRule<'a>,
    decoded: Decoded,
}

/// A single point of such a user is refused as a whole.
const USER_ERASED: &str = FaultKind::UserErased.as_str();

/// What is wrong with a point.
enum PointFault {
    /// A field, or the whole point.
    Field { field: Option<&'static str>, kind: &'static str, message: String },
    /// It names a user the key may not name.
    Forbidden,
}

impl Points<'_> {
    fn take(&mut self, shape: Shape, nodes: &[Node<'_>], limits: Limits) -> Result<(), Refusal> {
        match shape {
            Shape::One => match nodes {
                [Node::Object { .. }, ..] => self.point(None, nodes),
                nodes => Err(whole(None, "wrong_type", must_be("an object", nodes))),
            },
            Shape::Bulk => self.list(list_of(nodes)?, limits),
        }
    }

    fn list(&mut self, nodes: &[Node<'_>], limits: Limits) -> Result<(), Refusal> {
        let Some(Node::Array { len, .. }) = nodes.first() else {
            return Err(whole(Some("data_points"), "wrong_type", must_be("an array", nodes)));
        };
        let max = limits.points_max;
        if *len == 0 {
            let message = format!("holds no point; send 1 to {max}");
            return Err(whole(Some("data_points"), "too_few", message));
        }
        if *len > max {
            let message = format!("holds {len} points; send at most {max} at once");
            return Err(whole(Some("data_points"), "too_many", message));
        }
        let mut at = 1;
        for index in 0..*len {
            self.point(Some(index), &nodes[at..])?;
            at += span(&nodes[at]);
        }
        Ok(())
    }

    /// The point at the start of `nodes`.
    fn point(&mut self, index: Option<usize>, nodes: &[Node<'_>]) -> Result<(), Refusal> {
        match self.push(nodes) {
            Ok(()) => self.decoded.accepted += 1,
            Err(PointFault::Forbidden) => return Err(Refusal::OtherUser),
            Err(PointFault::Field { kind, .. }) if index.is_none() && kind == USER_ERASED => {
                return Err(Refusal::UserErased);
            }
            Err(PointFault::Field { field, kind, message }) => {
                self.decoded.rejected += 1;
                if self.decoded.detail.len() < DETAIL_MAX {
                    let place = Place { root: "body", index, field: field.map(Cow::Borrowed) };
                    self.decoded.detail.push(Entry::new(place, kind, message));
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, nodes: &[Node<'_>]) -> Result<(), PointFault> {
        let Some(Node::Object { len, .. }) = nodes.first() else {
            let message = must_be("an object", nodes);
            return Err(PointFault::Field { field: None, kind: "wrong_type", message });
        };
        let fields = Fields::read(*len, nodes);
        let said = fields.user_id.optional("user_id", "a text")?;
        let point = Point {
            user: self.user(said)?,
            metric: fields.metric.required("metric", "a text")?,
            value: fields.value.required("value", "a number")?,
            unit: fields.unit.required("unit", "a text")?,
            recorded_at: fields.recorded_at.required("recorded_at", "a text")?,
            source: fields.source.required("source", "a text")?,
            device: fields.device.optional("source_device_id", "a text")?,
            zone_offset: fields.zone_offset.optional("zone_offset", "a text")?,
            ended_at: fields.ended_at.optional("ended_at", "a text")?,
            is_daily_total: fields.is_daily_total.optional("is_daily_total", "true or false")?,
        };
        self.batch.push(self.registry, &point).map_err(|fault| PointFault::Field {
            field: Some(fault.field),
            kind: fault.kind.as_str(),
            message: fault.message,
        })
    }

    fn user<'u>(&self, said: Option<&'u str>) -> Result<&'u str, PointFault>
    where
        Self: 'u,
    {
        let (kind, message) = match self.users.user(said) {
            Ok(user) => return Ok(user),
            Err(UserFault::Forbidden) => return Err(PointFault::Forbidden),
            Err(UserFault::Mismatch) => ("user_mismatch", USER_MISMATCH),
            Err(UserFault::Missing) => ("missing", "is needed: this key is not bound to a user"),
        };
        Err(PointFault::Field { field: Some("user_id"), kind, message: message.to_owned() })
    }
}

/// The nodes of `data_points`, the array first.
fn list_of<'n, 'b>(nodes: &'n [Node<'b>]) -> Result<&'n [Node<'b>], Refusal> {
    let Some(Node::Object { len, .. }) = nodes.first() else {
        return Err(whole(None, "wrong_type", must_be("an object with data_points", nodes)));
    };
    let mut found = None;
    let mut at = 1;
    for _ in 0..*len {
        if matches!(nodes[at], Node::String("data_points")) {
            found = Some(at + 1);
        }
        at += 1 + span(&nodes[at + 1]);
    }
    let found = found.ok_or_else(|| whole(Some("data_points"), "missing", "is missing".to_owned()))?;
    Ok(&nodes[found..])
}

/// A refusal of the body as a whole, or of one of its outer fields.
fn whole(field: Option<&'static str>, kind: &'static str, message: String) -> Refusal {
    Refusal::invalid(Entry::new(
        Place { root: "body", index: None, field: field.map(Cow::Borrowed) },
        kind,
        message,
    ))
}

fn must_be(wanted: &str, nodes: &[Node<'_>]) -> String {
    format!("must be {wanted}, not {}", nodes.first().map_or("nothing", name_of))
}

/// Nodes that a value takes, itself included.
#[inline]
fn span(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::String(_) | Node::Static(_) => 1,
    }
}

/// What a field holds.
#[derive(Clone, Copy, Default)]
enum Field<T> {
    #[default]
    Absent,
    Is(T),
    /// Something of another type, named.
    Not(&'static str),
}

impl<T> Field<T> {
    #[inline]
    fn required(self, field: &'static str, wanted: &str) -> Result<T, PointFault> {
        match self {
            Field::Is(value) => Ok(value),
            Field::Not(found) => Err(wrong_type(field, wanted, found)),
            Field::Absent => {
                let message = "is missing".to_owned();
                Err(PointFault::Field { field: Some(field), kind: "missing", message })
            }
        }
    }

    #[inline]
    fn optional(self, field: &'static str, wanted: &str) -> Result<Option<T>, PointFault> {
        match self {
            Field::Is(value) => Ok(Some(value)),
            Field::Absent | Field::Not("null") => Ok(None),
            Field::Not(found) => Err(wrong_type(field, wanted, found)),
        }
    }
}

#[cold]
fn wrong_type(field: &'static str, wanted: &str, found: &'static str) -> PointFault {
    let message = format!("must be {wanted}, not {found}");
    PointFault::Field { field: Some(field), kind: "wrong_type", message }
}

/// A point as the body has it.
#[derive(Default)]
struct Fields<'b> {
    metric: Field<&'b str>,
    value: Field<f64>,
    unit: Field<&'b str>,
    recorded_at: Field<&'b str>,
    source: Field<&'b str>,
    device: Field<&'b str>,
    user_id: Field<&'b str>,
    zone_offset: Field<&'b str>,
    ended_at: Field<&'b str>,
    is_daily_total: Field<bool>,
}

impl<'b> Fields<'b> {
    /// The `len` fields of the object at the start of `nodes`.
    #[inline]
    fn read(len: usize, nodes: &[Node<'b>]) -> Fields<'b> {
        let mut fields = Fields::default();
        let mut at = 1;
        for _ in 0..len {
            if let Node::String(name) = nodes[at] {
                fields.set(name, &nodes[at + 1]);
            }
            at += 1 + span(&nodes[at + 1]);
        }
        fields
    }

    #[inline]
    fn set(&mut self, name: &str, node: &Node<'b>) {
        match name {
            "metric" => self.metric = text(node),
            "value" => self.value = number(node),
            "unit" => self.unit = text(node),
            "recorded_at" => self.recorded_at = text(node),
            "source" => self.source = text(node),
            "source_device_id" => self.device = text(node),
            "user_id" => self.user_id = text(node),
            "zone_offset" => self.zone_offset = text(node),
            "ended_at" => self.ended_at = text(node),
            "is_daily_total" => self.is_daily_total = truth(node),
            _ => {}
        }
    }
}

#[inline]
fn text<'b>(node: &Node<'b>) -> Field<&'b str> {
    match node {
        Node::String(text) => Field::Is(text),
        other => Field::Not(name_of(other)),
    }
}

#[inline]
fn number(node: &Node<'_>) -> Field<f64> {
    match node {
        Node::Static(StaticNode::F64(number)) => Field::Is(*number),
        Node::Static(StaticNode::U64(number)) => Field::Is(*number as f64),
        Node::Static(StaticNode::I64(number)) => Field::Is(*number as f64),
        other => Field::Not(name_of(other)),
    }
}

#[inline]
fn truth(node: &Node<'_>) -> Field<bool> {
    match node {
        Node::Static(StaticNode::Bool(truth)) => Field::Is(*truth),
        other => Field::Not(name_of(other)),
    }
}

fn name_of(node: &Node<'_>) -> &'static str {
    match node {
        Node::String(_) => "a text",
        Node::Object { .. } => "an object",
        Node::Array { .. } => "an array",
        Node::Static(StaticNode::Null) => "null",
        Node::Static(StaticNode::Bool(_)) => "true or false",
        Node::Static(_) => "a number",
    }
}

fn strings_of(nodes: &[Node<'_>]) -> usize {
    nodes.iter().filter(|node| matches!(node, Node::String(_))).count()
}

/// A body that is not JSON, as the parser left it.
struct Broken<'a> {
    body: &'a [u8],
    /// Where brackets, colons, commas, opening quotes and other values begin.
    structurals: &'a [u32],
    /// Strings that were read before the fault.
    strings: usize,
}

impl Broken<'_> {
    /// Where the JSON breaks and what should stand there.
    fn refusal(&self, fault: &simd_json::Error) -> Refusal {
        let len = self.body.len();
        let (offset, reason) = match (fault.error(), fault.character()) {
            (ErrorType::InvalidUtf8, _) => {
                let valid = std::str::from_utf8(self.body).map_or_else(|fault| fault.valid_up_to(), str::len);
                (valid, "this is not UTF-8".to_owned())
            }
            (ErrorType::Eof, _) => (len, "the body is empty".to_owned()),
            // Without a character the first pass failed: within a string.
            (ErrorType::Syntax, None) => broken_string(self.body),
            (ErrorType::Syntax, Some(_)) => (len, "the body ends too early".to_owned()),
            (kind @ (ErrorType::InvalidEscape | ErrorType::InvalidUnicodeCodepoint), _) => {
                (self.escape_at(), expected(kind).to_owned())
            }
            (ErrorType::InternalError, Some('}' | ']')) => self.at_bracket(fault.index()),
            (kind, found) => {
                let found = found.map_or_else(String::new, |found| format!(", found {found:?}"));
                (fault.index(), format!("{}{found}", expected(kind)))
            }
        };
        Refusal::MalformedJson { offset, reason }
    }

    /// At a closing bracket the parser either wanted a value, after a comma or a
    /// colon, or found something behind the outermost one.
    fn at_bracket(&self, at: usize) -> (usize, String) {
        let place = self.structurals.iter().position(|other| *other as usize == at).unwrap_or_default();
        let before = place.checked_sub(1).and_then(|place| self.structurals.get(place));
        let before = before.and_then(|at| self.body.get(*at as usize));
        if matches!(before, Some(b',' | b':')) {
            return (at, expected(&ErrorType::InternalError).to_owned());
        }
        let behind = self.structurals.get(place + 1).map_or(self.body.len(), |at| *at as usize);
        (behind, expected(&ErrorType::TrailingData).to_owned())
    }

    /// The first escape that is none, in the string after those that were read.
    fn escape_at(&self) -> usize {
        let starts = self.structurals.iter().map(|at| *at as usize);
        let mut strings = starts.filter(|at| self.body.get(*at) == Some(&b'"'));
        let Some(start) = strings.nth(self.strings) else { return 0 };
        let mut at = start + 1;
        while let Some(byte) = self.body.get(at) {
            match byte {
                b'"' => break,
                b'\\' if !is_escape(&self.body[at + 1..]) => return at,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        start
    }
}

/// Whether `bytes` begin with what may follow a backslash.
fn is_escape(bytes: &[u8]) -> bool {
    match bytes {
        [b'u', digits @ ..] => digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit),
        [byte, ..] => b"\"\\/bfnrt".contains(byte),
        [] => false,
    }
}

fn expected(kind: &ErrorType) -> &'static str {
    match kind {
        ErrorType::ExpectedObjectKey | ErrorType::KeyMustBeAString => "expected a name in double quotes",
        ErrorType::ExpectedObjectContent => "expected a name in double quotes, a comma or }",
        ErrorType::ExpectedObjectColon => "expected a colon",
        ErrorType::ExpectedArrayContent => "expected a comma or ]",
        ErrorType::ExpectedTrue | ErrorType::ExpectedBoolean => "expected true",
        ErrorType::ExpectedFalse => "expected false",
        ErrorType::ExpectedNull => "expected null",
        ErrorType::InvalidNumber | ErrorType::ExpectedNumber => "expected a number that fits 64 bits",
        ErrorType::InvalidEscape => "expected an escape such as \\n or \\u00e9",
        ErrorType::InvalidUnicodeCodepoint | ErrorType::InvalidUnicodeEscape => {
            "expected a Unicode escape such as \\u00e9"
        }
        ErrorType::TrailingData => "expected the end of the body",
        ErrorType::DepthLimitExceeded => "nested too deep",
        _ => "expected an object, array, string, number, true, false or null",
    }
}

/// The first string that never ends or holds a raw control character.
fn broken_string(body: &[u8]) -> (usize, String) {
    let mut opened = None;
    let mut escaped = false;
    for (offset, byte) in body.iter().enumerate() {
        match (opened, byte) {
            (None, b'"') => opened = Some(offset),
            (Some(_), byte) if *byte < 0x20 => {
                return (offset, "a control character in a string must be escaped".to_owned());
            }
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(_), b'"') => opened = None,
            _ => {}
        }
    }
    (opened.unwrap_or(body.len()), "this string does not end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::Pool;

    const POINT: &str = r#""metric":"heart_rate","value":62,"unit":"bpm","recorded_at":"2026-06-30T07:45:00Z","source":"garmin""#;

    fn run(shape: Shape, text: &[u8], users: UserRule<'_>) -> Result<Decoded, Refusal> {
        let pool = Pool::default();
        let mut scratch = pool.scratch();
        let mut body = text.to_vec();
        let registry = Registry::builtin();
        let limits = Limits { points_max: 500 };
        decode(shape, &mut body, &mut scratch, &registry, users, limits, None)
    }

    fn first_fault(result: Result<Decoded, Refusal>) -> (String, &'static str) {
        let entry = match result {
            Ok(decoded) => decoded.detail.into_iter().next().unwrap(),
            Err(Refusal::Invalid { detail, .. }) => detail.into_iter().next().unwrap(),
            Err(other) => panic!("{other}"),
        };
        (serde_json::to_string(&entry.place).unwrap(), entry.kind)
    }

    #[test]
    fn fields_may_stand_in_any_order_among_others_and_the_last_of_a_name_counts() {
        let texts = [
            format!("{{{POINT}}}"),
            r#" {"source":"garmin","x":{"value":[1,{"a":2}]},"recorded_at":"2026-06-30T07:45:00Z","unit":"bpm","value":6.2e1,"metric":"heart_rate","y":[]} "#.to_owned(),
            format!(r#"{{"value":"sixty","metric":3,{POINT}}}"#),
            format!(r#"{{{POINT},"source_device_id":null,"zone_offset":null,"ended_at":null,"is_daily_total":null,"user_id":null}}"#),
            format!(r#"{{{POINT},"source_device_id":"d","zone_offset":"+02:00","ended_at":"2026-06-30T08:45:00Z","is_daily_total":false}}"#),
        ];
        for text in texts {
            let decoded = run(Shape::One, text.as_bytes(), UserRule::Bound("u")).unwrap();
            assert_eq!((decoded.accepted, decoded.detail), (1, Vec::new()), "{text}");
        }
    }

    #[test]
    fn a_bad_field_is_named_by_its_place_and_kind() {
        let cases = [
            (r#"{"metric":"heart_rate"}"#.to_owned(), r#"["body","value"]"#, "missing"),
            (format!(r#"{{{POINT},"value":"62"}}"#), r#"["body","value"]"#, "wrong_type"),
            (format!(r#"{{{POINT},"value":null}}"#), r#"["body","value"]"#, "wrong_type"),
            (format!(r#"{{{POINT},"value":{{"a":1}}}}"#), r#"["body","value"]"#, "wrong_type"),
            (format!(r#"{{{POINT},"metric":7}}"#), r#"["body","metric"]"#, "wrong_type"),
            (format!(r#"{{{POINT},"is_daily_total":"yes"}}"#), r#"["body","is_daily_total"]"#, "wrong_type"),
            (format!(r#"{{{POINT},"user_id":5}}"#), r#"["body","user_id"]"#, "wrong_type"),
            ("[]".to_owned(), r#"["body"]"#, "wrong_type"),
            ("7".to_owned(), r#"["body"]"#, "wrong_type"),
        ];
        for (text, place, kind) in cases {
            let found = first_fault(run(Shape::One, text.as_bytes(), UserRule::Named("u")));
            assert_eq!(found, (place.to_owned(), kind), "{text}");
        }
    }

    #[test]
    fn a_list_is_named_by_its_place_and_kind() {
        let many = vec![format!("{{{POINT}}}"); 501].join(",");
        let cases = [
            ("[]".to_owned(), r#"["body"]"#, "wrong_type"),
            ("{}".to_owned(), r#"["body","data_points"]"#, "missing"),
            (r#"{"data_points":{}}"#.to_owned(), r#"["body","data_points"]"#, "wrong_type"),
            (r#"{"data_points":[]}"#.to_owned(), r#"["body","data_points"]"#, "too_few"),
            (format!(r#"{{"data_points":[{many}]}}"#), r#"["body","data_points"]"#, "too_many"),
            (r#"{"data_points":[7]}"#.to_owned(), r#"["body","data_points",0]"#, "wrong_type"),
            (
                format!(r#"{{"data_points":[{{{POINT}}},[[]],{{}}]}}"#),
                r#"["body","data_points",1]"#,
                "wrong_type",
            ),
            (
                format!(r#"{{"data_points":[{{{POINT}}},{{{POINT},"user_id":"v"}}]}}"#),
                r#"["body","data_points",1,"user_id"]"#,
                "user_mismatch",
            ),
        ];
        for (text, place, kind) in cases {
            let found = first_fault(run(Shape::Bulk, text.as_bytes(), UserRule::Named("u")));
            assert_eq!(found, (place.to_owned(), kind), "{text}");
        }
    }

    #[test]
    fn bad_points_are_counted_and_the_first_hundred_named() {
        let bad = vec!["{}"; 150].join(",");
        let text = format!(r#"{{"data_points":[{{{POINT}}},{bad},{{{POINT}}}]}}"#);
        let decoded = run(Shape::Bulk, text.as_bytes(), UserRule::Named("u")).unwrap();
        assert_eq!((decoded.accepted, decoded.rejected, decoded.detail.len()), (2, 150, 100));
    }

    #[test]
    fn a_point_of_another_user_than_the_keys_refuses_the_request() {
        let text = format!(r#"{{"data_points":[{{{POINT}}},{{"user_id":"v"}}]}}"#);
        let refused = run(Shape::Bulk, text.as_bytes(), UserRule::Bound("u"));
        assert!(matches!(refused, Err(Refusal::OtherUser)));
    }

    #[test]
    fn malformed_json_tells_where_and_what_was_expected() {
        let cases: &[(&[u8], usize, &str)] = &[
            (b"", 0, "empty"),
            (b"   ", 3, "empty"),
            (b"{\"a\":NaN}", 5, "expected an object"),
            (b"{\"a\":Infinity}", 5, "expected an object"),
            (b"{\"a\":-Infinity}", 6, "number"),
            (b"{\"a\":1e999}", 5, "number"),
            (b"{\"a\":01}", 6, "number"),
            (b"{\"a\":1", 6, "too early"),
            (b"{\"a\":\"x", 5, "does not end"),
            (b"{\"a\":\"x\n\"}", 7, "control character"),
            (b"{\"a\":\"\xff\"}", 6, "UTF-8"),
            (b"{\"a\":\"\\x\"}", 6, "escape"),
            (b"{\"\\n\":\"\\n\",\"b\":\"\\n\\u00e9\\u00g9\"}", 24, "Unicode escape"),
            (b"{\"a\":\"\\ud800\"}", 5, "Unicode escape"),
            (b"{\"a\" 1}", 5, "colon"),
            (b"{a:1}", 1, "double quotes"),
            (b"{\"a\":1,}", 7, "double quotes"),
            (b"[1 2]", 3, "comma"),
            (b"{} x", 3, "end of the body"),
            (b"{}{}", 2, "end of the body"),
            (b"[1,]", 3, "expected an object"),
            (b"{\"a\":}", 5, "expected an object"),
            (b"tru", 0, "expected true"),
        ];
        for (text, offset, reason) in cases {
            let shown = String::from_utf8_lossy(text);
            match run(Shape::One, text, UserRule::Bound("u")) {
                Err(Refusal::MalformedJson { offset: found, reason: text }) => {
                    assert!(text.contains(reason), "{shown}: {text}");
                    assert_eq!(found, *offset, "{shown}: {text}");
                }
                other => panic!("{shown}: {other:?}"),
            }
        }
        let deep = vec![b'['; 5000];
        assert!(matches!(run(Shape::One, &deep, UserRule::Bound("u")), Err(Refusal::MalformedJson { .. })));
    }

    #[test]
    fn a_scratch_decodes_again_after_any_fault() {
        let pool = Pool::default();
        let mut scratch = pool.scratch();
        let registry = Registry::builtin();
        let good = format!(r#"{{"data_points":[{{{POINT}}}]}}"#);
        for text in ["", "{", "[]", r#"{"data_points":[{}]}"#, "\"\\u12\"", "nul", &good] {
            let mut body = text.as_bytes().to_vec();
            let limits = Limits { points_max: 500 };
            let _ =
                decode(Shape::Bulk, &mut body, &mut scratch, &registry, UserRule::Bound("u"), limits, None);
            let mut body = good.as_bytes().to_vec();
            let decoded =
                decode(Shape::Bulk, &mut body, &mut scratch, &registry, UserRule::Bound("u"), limits, None);
            assert_eq!(decoded.unwrap().accepted, 1, "after {text:?}");
            assert_eq!(scratch.batch.len(), 1);
        }
    }

    #[test]
    fn a_long_body_of_nothing_but_separators_is_not_parsed() {
        let text = vec![b','; SEPARATORS_MAX + 1];
        let refused = run(Shape::Bulk, &text, UserRule::Bound("u"));
        assert!(matches!(refused, Err(Refusal::TooManyValues { .. })));
    }
}
