//! The payload of an event frame: what a publisher handed in.
//!
//! ```text
//!  0  u32 org, user, name, id, data: their lengths; u32::MAX for one that is
//!     absent (user, id)
//! 20  u32 bound: 1 if its publisher speaks for the user only, else 0
//! 24  org, user, name, id as UTF-8, data as JSON, one behind the other
//! ```

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::{Draft, FRAME_HEADER_BYTES, FrameFault, Header, Kind, u32_at};

const HEAD_BYTES: usize = 24;
const PARTS: usize = 5;
const ABSENT: u32 = u32::MAX;

/// An event to encode.
#[derive(Clone, Copy, Debug)]
pub struct Published<'a> {
    /// Whose it is.
    pub org: &'a str,
    /// The user it is about.
    pub user: Option<&'a str>,
    /// `check_in.created`
    pub name: &'a str,
    /// The id its publisher gave it.
    pub id: Option<&'a str>,
    /// Whether its publisher speaks for the user only: then the id is one of that user's,
    /// else one of the organisation's.
    pub bound: bool,
    /// One JSON value.
    pub data: &'a str,
}

impl Published<'_> {
    /// Its publisher's id, unlike any of others in the organisation.
    #[must_use]
    pub fn scoped_id(&self) -> Option<Cow<'_, str>> {
        scoped_id(self.user.filter(|_| self.bound), self.id)
    }
}

/// An id as it is remembered: with the user if it is one of that user's. Neither users
/// nor ids have control characters.
fn scoped_id<'a>(user: Option<&str>, id: Option<&'a str>) -> Option<Cow<'a, str>> {
    let id = id?;
    Some(user.map_or(Cow::Borrowed(id), |user| Cow::Owned(format!("{user}\0{id}"))))
}

/// Encodes an event.
///
/// # Panics
/// If a part is longer than a frame: callers bound bodies far below.
#[must_use]
pub fn encode_published(event: &Published<'_>) -> Draft {
    let parts = [Some(event.org), event.user, Some(event.name), event.id, Some(event.data)];
    let capacity = HEAD_BYTES + parts.iter().flatten().map(|part| part.len()).sum::<usize>();
    Draft::build(Kind::Event, false, capacity, |out| {
        for part in parts {
            let bytes = part.map_or(ABSENT, |part| u32::try_from(part.len()).expect("bodies are bounded"));
            out.extend_from_slice(&bytes.to_le_bytes());
        }
        out.extend_from_slice(&u32::from(event.bound).to_le_bytes());
        parts.iter().flatten().for_each(|part| out.extend_from_slice(part.as_bytes()));
    })
}

/// An event frame, immutable and cheap to clone.
#[derive(Clone, Debug)]
pub struct EventFrame {
    bytes: Bytes,
    header: Header,
    bound: bool,
    parts: [Option<(usize, usize)>; PARTS],
}

impl EventFrame {
    /// Reads a sealed frame whose checksum is known to be right.
    ///
    /// # Errors
    /// [`FrameFault`] if the payload contradicts itself.
    pub fn parse(bytes: Bytes) -> Result<EventFrame, FrameFault> {
        let fault = |what| FrameFault::Payload { what };
        let header = Header::read(&bytes).ok_or(FrameFault::Length { payload_bytes: 0 })?;
        let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
        let payload = bytes.get(FRAME_HEADER_BYTES..end).ok_or(fault("shorter than its length"))?;
        if payload.len() < HEAD_BYTES {
            return Err(fault("shorter than its head"));
        }
        let mut at = FRAME_HEADER_BYTES + HEAD_BYTES;
        let mut parts = [None; PARTS];
        for (index, part) in parts.iter_mut().enumerate() {
            let length = u32_at(payload, index * 4);
            if length != ABSENT {
                *part = Some((at, at + length as usize));
                at += length as usize;
            }
        }
        if at != end {
            return Err(fault("its parts do not add up"));
        }
        let bound = u32_at(payload, PARTS * 4) == 1;
        let frame = EventFrame { bytes, header, bound, parts };
        let whole = (0..PARTS).all(|part| parts[part].is_none() || frame.part(part).is_some());
        if !whole || [0, 2, 4].iter().any(|&part| parts[part].is_none()) {
            return Err(fault("a part is missing or no text"));
        }
        Ok(frame)
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whose it is.
    #[must_use]
    pub fn org(&self) -> &str {
        self.part(0).unwrap_or_default()
    }

    /// The user it is about.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.part(1)
    }

    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &str {
        self.part(2).unwrap_or_default()
    }

    /// The id its publisher gave it.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.part(3)
    }

    /// Its publisher's id, unlike any of others in the organisation.
    #[must_use]
    pub fn scoped_id(&self) -> Option<Cow<'_, str>> {
        scoped_id(self.user().filter(|_| self.bound), self.id())
    }

    /// One JSON value.
    #[must_use]
    pub fn data(&self) -> &str {
        self.part(4).unwrap_or_default()
    }

    /// The same as bytes: it was text when the frame was read, and is not looked through
    /// again.
    #[must_use]
    pub fn data_bytes(&self) -> &[u8] {
        self.bytes_of(4).unwrap_or_default()
    }

    pub(super) fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    fn part(&self, index: usize) -> Option<&str> {
        std::str::from_utf8(self.bytes_of(index)?).ok()
    }

    fn bytes_of(&self, index: usize) -> Option<&[u8]> {
        let (from, to) = self.parts[index]?;
        let range: Range<usize> = from..to;
        self.bytes.get(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Sequence, Stamp};

    fn stamp() -> Stamp {
        Stamp { sequence: Sequence(3), synced: Sequence(2), ordering: 1, committed_at: 1_000_000 }
    }

    #[test]
    fn an_event_is_read_as_it_was_written_and_cut_frames_are_refused() {
        for (user, id, bound) in
            [(Some("u_1"), Some("ci-1"), false), (None, None, false), (Some(""), None, true)]
        {
            let data = "{\"mood\":\"müde\"}";
            let event = Published { org: "acme", user, name: "check_in.created", id, bound, data };
            let bytes = Bytes::from(encode_published(&event).seal(stamp()));
            let read = EventFrame::parse(bytes.clone()).unwrap();
            assert_eq!((read.org(), read.user(), read.id()), ("acme", user, id));
            assert_eq!((read.name(), read.data()), ("check_in.created", event.data));
            for end in 0..bytes.len() - 8 {
                assert!(EventFrame::parse(bytes.slice(..end)).is_err(), "{end}");
            }
        }
    }

    #[test]
    fn an_id_of_a_publisher_that_speaks_for_one_user_is_that_users_own() {
        let scoped = |user, bound| {
            let event = Published {
                org: "acme",
                user,
                name: "check_in.created",
                id: Some("ci-1"),
                bound,
                data: "{}",
            };
            let read = EventFrame::parse(encode_published(&event).seal(stamp()).into()).unwrap();
            assert_eq!(read.scoped_id(), event.scoped_id());
            event.scoped_id().unwrap().into_owned()
        };
        // As it was before ids were anybody's own.
        assert_eq!((scoped(None, false), scoped(Some("u_1"), false)), ("ci-1".into(), "ci-1".into()));
        let own = [scoped(Some("u_1"), true), scoped(Some("u_2"), true)];
        assert!(own[0] != own[1] && !own.contains(&"ci-1".to_owned()), "{own:?}");
    }
}
