//! Decoding points that are written alike, without a tape.
//!
//! A client writes a batch with one serializer, so a point differs from one before it
//! in its value and its times, and mostly in nothing else. The first is read byte by
//! byte and becomes a [`Mould`]: what stands between those three. Of each that follows,
//! the text between is compared and only they are read.
//!
//! ```text
//! {"metric":"heart_rate","value":62,"unit":"bpm","recorded_at":"2026-06-30T07:45:00Z","source":"garmin"}
//! '---------- text ------------''--''--------- text ---------''------- time ------''------ text -----'
//! ```
//!
//! Constraints: this decoder refuses nothing and explains nothing. It takes a body
//! whole, with the result that the parser behind it (`json`) would have, or leaves it to
//! that: escapes, nested values, names that come twice, values of another type, points
//! that break a rule, anything that is no JSON. The body is not changed. Nothing is
//! allocated.

use systole_engine::Point;

use super::user::UserRule;

/// Moulds kept: as many as there are metrics side by side in one batch.
const MOULDS_MAX: usize = 8;
/// What differs from point to point: value, start and end.
const HOLES_MAX: usize = 3;
/// Digits that an `f64` holds exactly, whatever they are.
const EXACT_DIGITS_MAX: usize = 15;
/// Digits of the longest number without a fraction that fits 64 bits for certain.
const WHOLE_DIGITS_MAX: usize = 18;
/// Powers of ten up to the longest fraction of [`EXACT_DIGITS_MAX`] digits.
const TENS: [f64; EXACT_DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Gives the points of `{"data_points":[...]}` to `take`, in their order; how many, if
/// all of them are alike and `take` took each. If not, what was given must be
/// forgotten and the body parsed.
pub(super) fn decode<'b>(
    body: &'b [u8],
    users: UserRule<'b>,
    points_max: usize,
    mut take: impl FnMut(&Point<'b>) -> bool,
) -> Option<usize> {
    let mut text = Text { body, at: 0 };
    for token in [&b"{"[..], b"\"data_points\"", b":", b"["] {
        text.blank();
        text.expect(token)?;
    }
    let mut moulds = Moulds::default();
    for count in 1..=points_max {
        text.blank();
        let point = match moulds.pour(&mut text) {
            Some(point) => point,
            None => moulds.make(&mut text, users)?,
        };
        if !take(&point) {
            return None;
        }
        text.blank();
        match text.next()? {
            b',' => {}
            b']' => {
                text.blank();
                text.expect(b"}")?;
                text.blank();
                return (text.at == body.len()).then_some(count);
            }
            _ => return None,
        }
    }
    None
}

/// The last moulds that were made.
#[derive(Default)]
struct Moulds<'b> {
    kept: [Option<Mould<'b>>; MOULDS_MAX],
    /// The one that fitted last.
    last: usize,
}

impl<'b> Moulds<'b> {
    /// Reads a point by a mould that fits, if one does.
    #[inline]
    fn pour(&mut self, text: &mut Text<'b>) -> Option<Point<'b>> {
        for turn in 0..MOULDS_MAX {
            let index = (self.last + turn) % MOULDS_MAX;
            let Some(mould) = &self.kept[index] else { continue };
            if let Some((point, end)) = mould.pour(text) {
                (self.last, text.at) = (index, end);
                return Some(point);
            }
        }
        None
    }

    /// Reads a point that is unlike those before, and keeps its mould.
    #[cold]
    fn make(&mut self, text: &mut Text<'b>, users: UserRule<'b>) -> Option<Point<'b>> {
        let (mould, end) = Mould::of(text, users)?;
        let free = self.kept.iter().position(Option::is_none);
        // The one after the last is the one that fitted longest ago, if they take turns.
        self.last = free.unwrap_or((self.last + 1) % MOULDS_MAX);
        text.at = end;
        let point = mould.point;
        self.kept[self.last] = Some(mould);
        Some(point)
    }
}

/// A point, and the text between what may be another in the next.
struct Mould<'b> {
    point: Point<'b>,
    /// The text before each hole.
    holes: [(&'b [u8], Hole); HOLES_MAX],
    used: usize,
    tail: &'b [u8],
}

/// What is read anew.
#[derive(Clone, Copy)]
enum Hole {
    Value,
    /// A time of so many bytes.
    RecordedAt(usize),
    EndedAt(usize),
}

impl<'b> Mould<'b> {
    /// A point that has the same text between, and where it ends.
    #[inline]
    fn pour(&self, text: &Text<'b>) -> Option<(Point<'b>, usize)> {
        let mut text = Text { ..*text };
        let mut point = self.point;
        for (before, hole) in &self.holes[..self.used] {
            text.expect(before)?;
            match *hole {
                Hole::Value => point.value = text.number()?,
                Hole::RecordedAt(bytes) => point.recorded_at = text.time(bytes)?,
                Hole::EndedAt(bytes) => point.ended_at = Some(text.time(bytes)?),
            }
        }
        text.expect(self.tail)?;
        Some((point, text.at))
    }

    /// The mould of the object that begins here, and where it ends.
    fn of(text: &Text<'b>, users: UserRule<'b>) -> Option<(Mould<'b>, usize)> {
        let mut text = Text { ..*text };
        let mut fields = Fields::default();
        let mut holes = [(&b""[..], Hole::Value); HOLES_MAX];
        let (mut used, mut from) = (0, text.at);
        let body = text.body;
        let mut punch = |from: &mut usize, begin: usize, end: usize, hole: Hole| {
            holes[used] = (&body[*from..begin], hole);
            used += 1;
            *from = end;
        };
        text.expect(b"{")?;
        loop {
            text.blank();
            let name = text.string()?;
            text.blank();
            text.expect(b":")?;
            text.blank();
            let begin = text.at;
            let value = text.value()?;
            let (inner, end) = (begin + 1, text.at);
            match (name, value) {
                ("value", Value::Number(number)) => {
                    put(&mut fields.value, number)?;
                    punch(&mut from, begin, end, Hole::Value);
                }
                ("recorded_at", Value::Text(time)) => {
                    put(&mut fields.recorded_at, time)?;
                    punch(&mut from, inner, end - 1, Hole::RecordedAt(time.len()));
                }
                ("ended_at", Value::Text(time)) => {
                    put(&mut fields.ended_at, Some(time))?;
                    punch(&mut from, inner, end - 1, Hole::EndedAt(time.len()));
                }
                ("metric", Value::Text(name)) => put(&mut fields.metric, name)?,
                ("unit", Value::Text(unit)) => put(&mut fields.unit, unit)?,
                ("source", Value::Text(source)) => put(&mut fields.source, source)?,
                ("source_device_id", Value::Text(device)) => put(&mut fields.device, Some(device))?,
                ("user_id", Value::Text(user)) => put(&mut fields.user, Some(user))?,
                ("zone_offset", Value::Text(zone)) => put(&mut fields.zone_offset, Some(zone))?,
                ("is_daily_total", Value::Truth(truth)) => put(&mut fields.is_daily_total, Some(truth))?,
                ("ended_at", Value::Null) => put(&mut fields.ended_at, None)?,
                ("source_device_id", Value::Null) => put(&mut fields.device, None)?,
                ("user_id", Value::Null) => put(&mut fields.user, None)?,
                ("zone_offset", Value::Null) => put(&mut fields.zone_offset, None)?,
                ("is_daily_total", Value::Null) => put(&mut fields.is_daily_total, None)?,
                (
                    "value" | "recorded_at" | "ended_at" | "metric" | "unit" | "source" | "source_device_id"
                    | "user_id" | "zone_offset" | "is_daily_total",
                    _,
                ) => return None,
                _ => {}
            }
            text.blank();
            match text.next()? {
                b',' => {}
                b'}' => break,
                _ => return None,
            }
        }
        let tail = &body[from..text.at];
        Some((Mould { point: fields.point(users)?, holes, used, tail }, text.at))
    }
}

/// What a point says; a name that comes twice is none of it.
#[derive(Default)]
struct Fields<'b> {
    metric: Option<&'b str>,
    value: Option<f64>,
    unit: Option<&'b str>,
    recorded_at: Option<&'b str>,
    source: Option<&'b str>,
    device: Option<Option<&'b str>>,
    user: Option<Option<&'b str>>,
    zone_offset: Option<Option<&'b str>>,
    ended_at: Option<Option<&'b str>>,
    is_daily_total: Option<Option<bool>>,
}

impl<'b> Fields<'b> {
    fn point(self, users: UserRule<'b>) -> Option<Point<'b>> {
        Some(Point {
            user: users.user(self.user.flatten()).ok()?,
            metric: self.metric?,
            value: self.value?,
            unit: self.unit?,
            recorded_at: self.recorded_at?,
            source: self.source?,
            device: self.device.flatten(),
            zone_offset: self.zone_offset.flatten(),
            ended_at: self.ended_at.flatten(),
            is_daily_total: self.is_daily_total.flatten(),
        })
    }
}

/// Fills what is still empty.
fn put<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

enum Value<'b> {
    Text(&'b str),
    Number(f64),
    Truth(bool),
    Null,
}

/// A body, and how far it was read.
struct Text<'b> {
    body: &'b [u8],
    at: usize,
}

impl<'b> Text<'b> {
    #[inline]
    fn rest(&self) -> &'b [u8] {
        &self.body[self.at..]
    }

    #[inline]
    fn blank(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.body.get(self.at) {
            self.at += 1;
        }
    }

    #[inline]
    fn next(&mut self) -> Option<u8> {
        let byte = self.body.get(self.at).copied();
        self.at += usize::from(byte.is_some());
        byte
    }

    #[inline]
    fn expect(&mut self, token: &[u8]) -> Option<()> {
        self.rest().starts_with(token).then(|| self.at += token.len())
    }

    /// A text without escapes.
    fn string(&mut self) -> Option<&'b str> {
        self.expect(b"\"")?;
        let rest = self.rest();
        let end = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..=0x1f))?;
        if rest[end] != b'"' {
            return None;
        }
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).ok()
    }

    /// The inside of a text of so many bytes. What is no time may hold quotes and
    /// escapes, and is refused by who reads times.
    #[inline]
    fn time(&mut self, bytes: usize) -> Option<&'b str> {
        let text = self.rest().get(..bytes)?;
        self.at += bytes;
        std::str::from_utf8(text).ok()
    }

    fn value(&mut self) -> Option<Value<'b>> {
        match self.body.get(self.at)? {
            b'"' => self.string().map(Value::Text),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            b't' => self.expect(b"true").map(|()| Value::Truth(true)),
            b'f' => self.expect(b"false").map(|()| Value::Truth(false)),
            b'n' => self.expect(b"null").map(|()| Value::Null),
            _ => None,
        }
    }

    /// A number whose value is beyond doubt; what follows it is looked at by the
    /// caller.
    #[inline]
    fn number(&mut self) -> Option<f64> {
        let rest = self.rest();
        let is_negative = rest.first() == Some(&b'-');
        let begin = usize::from(is_negative);
        let (mut mantissa, mut at) = (0_u64, begin);
        let mut digits = |at: &mut usize| {
            let from = *at;
            while let Some(digit @ b'0'..=b'9') = rest.get(*at) {
                // Wraps where there are too many digits for it to be used.
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                *at += 1;
            }
            *at - from
        };
        let whole = digits(&mut at);
        if whole == 0 || (whole > 1 && rest[begin] == b'0') {
            return None;
        }
        let mut fraction = 0;
        if rest.get(at) == Some(&b'.') {
            at += 1;
            fraction = digits(&mut at);
            if fraction == 0 {
                return None;
            }
        }
        let has_exponent = matches!(rest.get(at), Some(b'e' | b'E'));
        let value = if !has_exponent && whole + fraction <= EXACT_DIGITS_MAX {
            // Both are exact, so their quotient is the nearest there is.
            mantissa as f64 / TENS[fraction]
        } else {
            if !has_exponent && fraction == 0 && whole > WHOLE_DIGITS_MAX {
                return None;
            }
            at += exponent_bytes(&rest[at..])?;
            let value: f64 = std::str::from_utf8(&rest[begin..at]).ok()?.parse().ok()?;
            if !value.is_normal() {
                return None;
            }
            value
        };
        if is_negative && value == 0.0 {
            return None;
        }
        self.at += at;
        Some(if is_negative { -value } else { value })
    }
}

/// Bytes of the exponent at the start of `text`; none if there is none.
fn exponent_bytes(text: &[u8]) -> Option<usize> {
    let [b'e' | b'E', behind @ ..] = text else { return Some(0) };
    let sign = usize::from(matches!(behind.first(), Some(b'+' | b'-')));
    let digits = behind[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    (digits > 0).then_some(1 + sign + digits)
}

#[cfg(test)]
mod tests {
    use systole_engine::{Batch, Registry};

    use super::*;
    use crate::ingest::Pool;
    use crate::ingest::json::{Limits, Shape, parse};

    const NOW_MS: i64 = 1_800_000_000_000;
    const POINTS_MAX: usize = 500;

    /// The number of points of a body that are alike, and their draft in words.
    fn poured(body: &[u8], users: UserRule<'_>) -> Option<(usize, String)> {
        let (registry, mut batch) = (Registry::builtin(), Batch::new());
        batch.clear(NOW_MS);
        let count = decode(body, users, POINTS_MAX, |point| batch.push(&registry, point).is_ok())?;
        Some((count, format!("{:?}", batch.encode("o", false))))
    }

    /// The same of a body as the parser reads it; none if anything is wrong with it.
    fn parsed(body: &[u8], users: UserRule<'_>) -> Option<(usize, String)> {
        let pool = Pool::default();
        let (registry, mut scratch) = (Registry::builtin(), pool.scratch());
        scratch.batch.clear(NOW_MS);
        let limits = Limits { points_max: POINTS_MAX };
        let decoded = parse(Shape::Bulk, &mut body.to_vec(), &mut scratch, &registry, users, limits).ok()?;
        let draft = |batch: &mut Batch| format!("{:?}", batch.encode("o", false));
        (decoded.rejected == 0).then(|| (decoded.accepted, draft(&mut scratch.batch)))
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }

        fn of<T: Copy>(&mut self, choices: &[T]) -> T {
            choices[self.below(choices.len() as u64) as usize]
        }
    }

    /// A body as some client would write it.
    fn body(random: &mut Random) -> String {
        let (colon, comma, open) =
            random.of(&[(":", ",", "{"), (": ", ", ", "{"), (" :\n", "\t,\r\n", "{ ")]);
        let metrics = [("heart_rate", "bpm"), ("spo2", "%"), ("steps", "count")];
        let (kinds, extra, order) = (random.below(3) + 1, random.below(4), random.below(3));
        let points: Vec<String> = (0..random.below(30) + 1)
            .map(|number| {
                let (metric, unit) = metrics[(number % kinds) as usize];
                let value = match random.below(6) {
                    0 => format!("{}.{}", 70 + random.below(30), random.below(1000)),
                    1 => format!("{}e1", 7 + random.below(3)),
                    2 => format!("{:.17}", 70.0 + random.below(300_000) as f64 / 1e4),
                    _ => (70 + random.below(30)).to_string(),
                };
                let time = format!("2026-06-30T07:{:02}:{:02}", number, random.below(60));
                let zone = random.of(&["Z", "Z", "Z", ".25Z", "+02:00"]);
                let quoted = |text: &str| format!("\"{text}\"");
                let mut fields = vec![
                    ("metric", quoted(metric)),
                    ("value", value),
                    ("unit", quoted(unit)),
                    ("recorded_at", quoted(&format!("{time}{zone}"))),
                    ("source", quoted("Uhr \u{e9}")),
                ];
                if extra & 1 == 1 {
                    fields.push(("ended_at", quoted("2026-06-30T09:45:00Z")));
                    fields.push(("is_daily_total", random.of(&["true", "false", "null"]).to_owned()));
                }
                if extra & 2 == 2 {
                    fields.push(("source_device_id", quoted(random.of(&["d1", "d1", "d2"]))));
                    fields.push(("other", random.of(&["1.5", "null", "\"x\""]).to_owned()));
                }
                fields.rotate_left(order as usize);
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("\"{name}\"{colon}{value}")).collect();
                format!("{open}{}}}", fields.join(comma))
            })
            .collect();
        format!("{open}\"data_points\"{colon}[{}]}}", points.join(comma))
    }

    #[test]
    fn bodies_of_all_clients_are_taken_with_the_parsers_result() {
        let mut random = Random(1);
        for _ in 0..1_000 {
            let body = body(&mut random);
            let poured = poured(body.as_bytes(), UserRule::Named("u"));
            assert!(poured.is_some(), "{body}");
            assert_eq!(poured, parsed(body.as_bytes(), UserRule::Named("u")), "{body}");
        }
    }

    #[test]
    fn whatever_is_taken_is_what_the_parser_takes() {
        let mut random = Random(2);
        let (mut taken, mut left) = (0, 0);
        for _ in 0..8_000 {
            let mut body = body(&mut random).into_bytes();
            for _ in 0..=random.below(2) {
                let at = random.below(body.len() as u64) as usize;
                match random.below(4) {
                    0 => drop(body.remove(at)),
                    1 => body.insert(at, random.of(b"\"\\{}[]:,0123456789.eE+-tfn \n\x00\xff")),
                    2 => body[at] = random.of(b"\"\\{}[]:,0123456789.eE+-tfn \n\x00\xff"),
                    _ => body[at] = random.below(256) as u8,
                }
                if body.is_empty() {
                    break;
                }
            }
            let shown = String::from_utf8_lossy(&body).into_owned();
            match poured(&body, UserRule::Named("u")) {
                Some(poured) => {
                    assert_eq!(Some(poured), parsed(&body, UserRule::Named("u")), "{shown}");
                    taken += 1;
                }
                None => left += 1,
            }
        }
        assert!(taken > 400 && left > 400, "{taken} taken, {left} left");
    }

    #[test]
    fn numbers_are_read_as_the_parser_reads_them() {
        let mut random = Random(3);
        let mut texts: Vec<String> =
            ["0", "-0", "-0.0", "0.0", "-1", "1e2", "1E+2", "1e-2", "5e-324", "1e-400"]
                .into_iter()
                .chain(["1e400", "01", "1.", ".5", "-", "+1", "1e", "0x1", "00", "-01", "1.5.2", "12e1.5"])
                .chain(["9007199254740993", "18446744073709551615", "100000000000000000000", "0.1", "36.6"])
                .chain([
                    "0.30000000000000004",
                    "36.599999999999994",
                    "123456789012345678",
                    "1234567890123456.7",
                ])
                .map(str::to_owned)
                .collect();
        for _ in 0..20_000 {
            let bits = (random.below(1 << 31) << 33) ^ (random.below(1 << 31) << 10) ^ random.below(1 << 10);
            let number = f64::from_bits(bits);
            if number.is_finite() {
                texts.push(number.to_string());
                texts.push(format!("{number:e}"));
            }
            let (whole, digits) = (random.below(1 << 20), random.below(18) as usize);
            texts.push(format!("{whole}.{:0digits$}", random.below(1 << 30)));
        }
        for text in texts {
            let mut value = None;
            let body = format!(
                r#"{{"data_points":[{{"metric":"heart_rate","value":{text},"unit":"bpm","recorded_at":"2026-06-30T07:45:00Z","source":"s"}}]}}"#
            );
            let taken = decode(body.as_bytes(), UserRule::Named("u"), POINTS_MAX, |point| {
                value = Some(point.value);
                true
            });
            let Some(value) = taken.and(value) else { continue };
            let mut copy = body.clone().into_bytes();
            let tape = simd_json::to_tape(&mut copy).unwrap_or_else(|fault| panic!("{text}: {fault}"));
            let expected = tape.0.iter().find_map(|node| match node {
                simd_json::Node::Static(simd_json::StaticNode::F64(number)) => Some(*number),
                simd_json::Node::Static(simd_json::StaticNode::U64(number)) => Some(*number as f64),
                simd_json::Node::Static(simd_json::StaticNode::I64(number)) => Some(*number as f64),
                _ => None,
            });
            assert_eq!(expected.map(f64::to_bits), Some(value.to_bits()), "{text}");
        }
    }

    #[test]
    fn what_needs_a_parser_or_an_explanation_is_left_to_it() {
        let point = r#""metric":"heart_rate","value":62,"unit":"bpm","recorded_at":"2026-06-30T07:45:00Z","source":"s""#;
        let one = format!(r#"{{"data_points":[{{{point}}}]}}"#);
        assert_eq!(poured(one.as_bytes(), UserRule::Bound("u")).map(|(count, _)| count), Some(1));
        let many = vec![format!("{{{point}}}"); POINTS_MAX + 1].join(",");
        let left = [
            "{}".to_owned(),
            r#"{"data_points":[]}"#.to_owned(),
            format!(r#"{{"data_points":[{many}]}}"#),
            format!(r#"{{"data_points":[{{{point}}}],"a":1}}"#),
            format!(r#"{{"data_points":[{{{point}}}]}} x"#),
            format!(r#"{{"data_points":[{{{point},"value":63}}]}}"#),
            format!(r#"{{"data_points":[{{{point},"user_id":"v"}}]}}"#),
            format!(r#"{{"data_points":[{{{point},"a":"\u00e9"}}]}}"#),
            format!(r#"{{"data_points":[{{{point},"a":[1]}}]}}"#),
            format!(r#"{{"data_points":[{{{point}}},{{}}]}}"#),
            one.replace("62", "1000"),
            one.replace("bpm", "km"),
        ];
        for body in left {
            assert_eq!(poured(body.as_bytes(), UserRule::Bound("u")), None, "{body}");
        }
    }
}
