//! Places as ids, enciphered.
//!
//! An event's id is `evt_` and 26 characters: one AES-128 block over the event's
//! place, in lower-case Crockford base32 without padding. So an id leads back to its
//! frame without an index, is the same at every attempt and after every restart, and
//! shows neither order nor volume to its receivers.
//!
//! ```text
//! bits  127..64    63..40   39..28   27..24   23..0
//!       sequence   group    chunk    kind     endpoint, 0 unless the event is its own
//! ```
//!
//! 26 characters hold 130 bits; the upper two are zero, so the first character is
//! `0` to `7`. The cipher is a permutation: every well-formed id deciphers to
//! something, and a made-up one with a known kind leads to a place where nothing is.
//! An id is therefore a name and no capability; who asks is checked elsewhere.
//!
//! [`random_id`] makes the ids that lead nowhere, in the same alphabet.

use std::fmt;

use aes::Aes128;
use aes::cipher::{BlockCipherDecrypt as _, BlockCipherEncrypt as _, KeyInit as _};

use crate::event::{EventKind, Place};

/// Begins an event's id.
pub const EVENT_ID_PREFIX: &str = "evt_";
/// Characters of an id after its prefix: 128 bits by 5, rounded up.
pub const ID_CHARS: usize = 26;

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const GROUP_BITS: u32 = 24;
const CHUNK_BITS: u32 = 12;
const KIND_BITS: u32 = 4;
const ENDPOINT_BITS: u32 = 24;

/// Turns places into ids and back under the instance's key. The key must last as
/// long as the journal: under another one, ids that were sent lead nowhere.
#[derive(Clone)]
pub struct IdCipher {
    cipher: Aes128,
}

impl IdCipher {
    /// A cipher under a key.
    #[must_use]
    pub fn new(key: [u8; 16]) -> IdCipher {
        IdCipher { cipher: Aes128::new(&key.into()) }
    }

    /// The id of a place; `endpoint` is 0 unless the event is one endpoint's own.
    ///
    /// # Panics
    /// If group or endpoint need more than 24 bits or the chunk more than 12: two
    /// events would share an id.
    #[must_use]
    pub fn seal(&self, place: Place, endpoint: u32) -> String {
        let mut block = pack(place, endpoint).to_be_bytes().into();
        self.cipher.encrypt_block(&mut block);
        spell(EVENT_ID_PREFIX, u128::from_be_bytes(block.into()))
    }

    /// The place of an id and its endpoint number, in any letter case; `None` for
    /// what is no id of this key.
    #[must_use]
    pub fn open(&self, id: &str) -> Option<(Place, u32)> {
        let (prefix, text) = id.split_at_checked(EVENT_ID_PREFIX.len())?;
        if !prefix.eq_ignore_ascii_case(EVENT_ID_PREFIX) {
            return None;
        }
        let mut block = read(text)?.to_be_bytes().into();
        self.cipher.decrypt_block(&mut block);
        unpack(u128::from_be_bytes(block.into()))
    }
}

impl fmt::Debug for IdCipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdCipher([redacted])")
    }
}

/// A prefix and 26 characters nobody can guess, for endpoints and test messages.
///
/// # Errors
/// [`RandomFault`].
pub fn random_id(prefix: &str) -> Result<String, RandomFault> {
    random_bytes().map(|bytes| spell(prefix, u128::from_be_bytes(bytes)))
}

/// Bytes from the operating system.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N], RandomFault> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(RandomFault)?;
    Ok(bytes)
}

/// The operating system gives no random bytes, so no id and no secret can be made.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct RandomFault(#[source] getrandom::Error);

fn pack(place: Place, endpoint: u32) -> u128 {
    assert!(place.group >> GROUP_BITS == 0, "group {} needs more than 24 bits", place.group);
    assert!(place.chunk >> CHUNK_BITS == 0, "chunk {} needs more than 12 bits", place.chunk);
    assert!(endpoint >> ENDPOINT_BITS == 0, "endpoint {endpoint} needs more than 24 bits");
    let mut packed = u128::from(place.sequence);
    packed = packed << GROUP_BITS | u128::from(place.group);
    packed = packed << CHUNK_BITS | u128::from(place.chunk);
    packed = packed << KIND_BITS | place.kind as u128;
    packed << ENDPOINT_BITS | u128::from(endpoint)
}

fn unpack(mut packed: u128) -> Option<(Place, u32)> {
    let mut take = |bits: u32| {
        let low = packed & ((1 << bits) - 1);
        packed >>= bits;
        low
    };
    let endpoint = take(ENDPOINT_BITS) as u32;
    let kind = EventKind::from_number(take(KIND_BITS) as u8)?;
    let chunk = take(CHUNK_BITS) as u16;
    let group = take(GROUP_BITS) as u32;
    Some((Place { sequence: packed as u64, group, chunk, kind }, endpoint))
}

fn spell(prefix: &str, number: u128) -> String {
    let mut id = String::with_capacity(prefix.len() + ID_CHARS);
    id.push_str(prefix);
    let digits = (0..ID_CHARS).rev().map(|place| (number >> (5 * place)) as usize & 31);
    id.extend(digits.map(|digit| char::from(CROCKFORD[digit])));
    id
}

/// The number that 26 characters spell, if they do.
fn read(text: &str) -> Option<u128> {
    // The first character is below 8, else the number has more than 128 bits.
    if text.len() != ID_CHARS || !(b'0'..=b'7').contains(&text.as_bytes()[0]) {
        return None;
    }
    text.bytes().try_fold(0, |number, byte| Some(number << 5 | digit(byte)?))
}

fn digit(byte: u8) -> Option<u128> {
    let byte = byte.to_ascii_lowercase();
    (0..).zip(CROCKFORD).find_map(|(digit, letter)| (*letter == byte).then_some(digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher() -> IdCipher {
        IdCipher::new(*b"0123456789abcdef")
    }

    fn place(sequence: u64, group: u32, chunk: u16, kind: EventKind) -> Place {
        Place { sequence, group, chunk, kind }
    }

    #[test]
    fn every_place_comes_back_from_its_id() {
        let places = [
            (place(0, 0, 0, EventKind::Created), 0),
            (place(1, 2, 3, EventKind::Updated), 0),
            (place(u64::MAX, (1 << 24) - 1, (1 << 12) - 1, EventKind::Published), (1 << 24) - 1),
            (place(1 << 48, 0, 7, EventKind::Coalesced), 1),
            (place(42, 9, 0, EventKind::Batch), 77),
        ];
        for (place, endpoint) in places {
            let id = cipher().seal(place, endpoint);
            assert_eq!(id.len(), 30, "{id}");
            assert!(id.starts_with("evt_"), "{id}");
            assert_eq!(cipher().open(&id), Some((place, endpoint)), "{id}");
            assert_eq!(cipher().open(&id.to_uppercase()), Some((place, endpoint)), "{id}");
        }
    }

    /// Computed by another implementation of AES.
    #[test]
    fn ids_keep_their_spelling_from_version_to_version() {
        let id = cipher().seal(place(1, 2, 3, EventKind::Created), 0);
        assert_eq!(id, "evt_1wevvct26r2qhbj8xfz668y6v2");
    }

    #[test]
    fn neighbouring_places_have_ids_that_share_nothing() {
        let ids: Vec<String> =
            (0..100).map(|group| cipher().seal(place(7, group, 0, EventKind::Created), 0)).collect();
        for pair in ids.windows(2) {
            let same = pair[0].bytes().zip(pair[1].bytes()).skip(4).filter(|(a, b)| a == b).count();
            assert!(same < 10, "{pair:?}");
        }
    }

    #[test]
    fn what_is_no_id_leads_nowhere() {
        let id = cipher().seal(place(1, 2, 3, EventKind::Created), 0);
        let cases = [
            String::new(),
            "evt_".into(),
            "é€é".into(),
            id[4..].into(),
            id.replace("evt_", "msg_"),
            id[..29].into(),
            format!("{id}0"),
            format!("evt_8{}", &id[5..]),
            format!("evt_{}u", &id[4..29]),
            format!("evt_{}é", &id[4..28]),
        ];
        for case in cases {
            assert_eq!(cipher().open(&case), None, "{case}");
        }
    }

    #[test]
    fn an_unknown_kind_leads_nowhere() {
        for kind in [0u128, 6, 15] {
            let mut block = (kind << ENDPOINT_BITS).to_be_bytes().into();
            cipher().cipher.encrypt_block(&mut block);
            let id = spell(EVENT_ID_PREFIX, u128::from_be_bytes(block.into()));
            assert_eq!(cipher().open(&id), None);
        }
    }

    #[test]
    fn another_key_gives_another_id() {
        let event = place(1, 2, 3, EventKind::Created);
        let id = IdCipher::new([7; 16]).seal(event, 0);
        assert_ne!(id, cipher().seal(event, 0));
        assert_ne!(cipher().open(&id), Some((event, 0)));
    }

    #[test]
    #[should_panic(expected = "needs more than 12 bits")]
    fn a_place_that_does_not_fit_is_a_bug() {
        let _ = cipher().seal(place(1, 2, 1 << 12, EventKind::Created), 0);
    }

    #[test]
    fn random_ids_differ_and_are_spelt_like_the_others() {
        let ids = [random_id("ep_").unwrap(), random_id("ep_").unwrap()];
        assert_ne!(ids[0], ids[1]);
        for id in ids {
            assert!(read(id.strip_prefix("ep_").unwrap()).is_some(), "{id}");
        }
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", cipher()), "IdCipher([redacted])");
    }
}
