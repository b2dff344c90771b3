//! Which users a checkpoint may hold: ten bits a user, all bits of one user in
//! one cache line. It says "maybe" for about one in a hundred users that are not
//! there, and never "no" for one that is.

/// Bits a user; with six of them set, about 1 % of strangers are let through.
const USER_BITS: usize = 10;
const LINE_WORDS: usize = 8;
const BITS_SET: u32 = 6;

#[derive(Debug)]
pub(super) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// For about this many users.
    pub(super) fn new(users: u64) -> Filter {
        let bits = usize::try_from(users).unwrap_or(usize::MAX / USER_BITS) * USER_BITS;
        Filter { words: vec![0; bits.div_ceil(LINE_WORDS * 64).max(1) * LINE_WORDS] }
    }

    /// As [`Filter::write`] wrote it; `None` if it is not that.
    pub(super) fn read(bytes: &[u8]) -> Option<Filter> {
        let (words, rest) = bytes.as_chunks::<8>();
        let whole = rest.is_empty() && !words.is_empty() && words.len().is_multiple_of(LINE_WORDS);
        whole.then(|| Filter { words: words.iter().map(|word| u64::from_le_bytes(*word)).collect() })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let line = self.line(hash);
        for bit in bits(hash) {
            self.words[line + bit / 64] |= 1 << (bit % 64);
        }
    }

    pub(super) fn may_hold(&self, hash: u64) -> bool {
        let line = self.line(hash);
        bits(hash).all(|bit| self.words[line + bit / 64] & (1 << (bit % 64)) != 0)
    }

    pub(super) fn byte_len(&self) -> usize {
        self.words.len() * 8
    }

    fn line(&self, hash: u64) -> usize {
        let lines = (self.words.len() / LINE_WORDS) as u128;
        ((u128::from(hash) * lines) >> 64) as usize * LINE_WORDS
    }
}

/// Places within a line, apart from the bits that choose the line.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = mixed ^ (mixed >> 29);
    (0..BITS_SET).map(move |step| (mixed >> (step * 9)) as usize % (LINE_WORDS * 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::series::user_hash;

    #[test]
    fn every_member_is_let_through_and_few_others() {
        let hash = |user: usize| user_hash("default", &format!("u_{user}"));
        let mut filter = Filter::new(20_000);
        (0..20_000).for_each(|user| filter.insert(hash(user)));
        let mut written = Vec::new();
        filter.write(&mut written);
        let read = Filter::read(&written).unwrap();
        assert!((0..20_000).all(|user| read.may_hold(hash(user))));
        let strangers = (20_000..60_000).filter(|&user| read.may_hold(hash(user))).count();
        assert!((1..1000).contains(&strangers), "{strangers} of 40000");
    }
}
