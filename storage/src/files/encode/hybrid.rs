//! Parquet's hybrid of run lengths and bit packing, written from runs.
//!
//! A run of at least eight values costs three bytes or so; shorter ones are bit
//! packed in groups of eight. Widths are at most 32 bits.

/// Values in a bit-packed group, which is never split.
const GROUP: usize = 8;

/// Bits that hold every number below `count`.
pub(super) fn width_of(count: usize) -> u32 {
    usize::BITS - count.saturating_sub(1).leading_zeros()
}

/// Writes runs of values into `out`; ends with [`Hybrid::finish`].
pub(super) struct Hybrid<'a> {
    out: &'a mut Vec<u8>,
    width: u32,
    /// Short runs that wait to be packed together.
    literal: Vec<u32>,
    /// The run that is still growing.
    open: (u32, usize),
}

impl<'a> Hybrid<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>, width: u32) -> Hybrid<'a> {
        Hybrid { out, width, literal: Vec::new(), open: (0, 0) }
    }

    /// `count` times `value`.
    pub(super) fn push(&mut self, value: u32, count: usize) {
        if self.open.0 == value {
            self.open.1 += count;
        } else {
            self.close_run();
            self.open = (value, count);
        }
    }

    pub(super) fn finish(mut self) {
        self.close_run();
        self.write_literal();
    }

    fn close_run(&mut self) {
        let (value, count) = std::mem::take(&mut self.open);
        // What the group before still lacks comes out of this run.
        let lacking = self.literal.len().next_multiple_of(GROUP) - self.literal.len();
        let long = count >= lacking + GROUP || (self.literal.is_empty() && self.width == 0);
        if !long {
            self.literal.extend(std::iter::repeat_n(value, count));
            return;
        }
        self.literal.extend(std::iter::repeat_n(value, lacking));
        self.write_literal();
        if count > lacking {
            varint(self.out, ((count - lacking) as u64) << 1);
            let bytes = self.width.div_ceil(8) as usize;
            self.out.extend_from_slice(&value.to_le_bytes()[..bytes]);
        }
    }

    fn write_literal(&mut self) {
        packed(self.out, &mut self.literal, self.width);
        self.literal.clear();
    }
}

/// All of `values` as one bit-packed run; pads them to whole groups.
pub(super) fn packed(out: &mut Vec<u8>, values: &mut Vec<u32>, width: u32) {
    if values.is_empty() {
        return;
    }
    values.resize(values.len().next_multiple_of(GROUP), 0);
    varint(out, ((values.len() / GROUP) as u64) << 1 | 1);
    match width {
        8 => out.extend(values.iter().map(|&value| value as u8)),
        16 => values.iter().for_each(|&value| out.extend_from_slice(&(value as u16).to_le_bytes())),
        _ => pack(out, values, width),
    }
}

fn pack(out: &mut Vec<u8>, values: &[u32], width: u32) {
    out.reserve(values.len() * width as usize / 8 + 8);
    let (mut bits, mut filled) = (0u64, 0);
    for &value in values {
        bits |= u64::from(value) << filled;
        filled += width;
        if filled >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            filled -= 32;
        }
    }
    // Groups of eight values end on whole bytes.
    out.extend_from_slice(&bits.to_le_bytes()[..filled as usize / 8]);
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the format's description says a reader does.
    fn decode(mut bytes: &[u8], width: u32, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let mut header = 0u64;
            for shift in (0..).step_by(7) {
                let (byte, rest) = bytes.split_first().unwrap();
                bytes = rest;
                header |= u64::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            if header & 1 == 0 {
                let (value, rest) = bytes.split_at(width.div_ceil(8) as usize);
                bytes = rest;
                let mut wide = [0; 4];
                wide[..value.len()].copy_from_slice(value);
                values.extend(std::iter::repeat_n(u32::from_le_bytes(wide), (header >> 1) as usize));
            } else {
                let groups = (header >> 1) as usize;
                let (packed, rest) = bytes.split_at(groups * width as usize);
                bytes = rest;
                let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
                let width = width as usize;
                values.extend(
                    (0..groups * GROUP).map(|at| (0..width).map(|b| bit(at * width + b) << b).sum::<u32>()),
                );
            }
        }
        assert!(bytes.is_empty(), "{} bytes too many", bytes.len());
        // Padding lies in the last group only.
        assert!(values.len() < count + GROUP);
        values.truncate(count);
        values
    }

    proptest! {
        #[test]
        fn runs_of_any_length_come_back(
            width in 0u32..=20,
            runs in prop::collection::vec((any::<u32>(), prop_oneof![Just(1usize), 1..20usize, 100..3000usize]), 0..200),
        ) {
            let mut bytes = Vec::new();
            let mut expected = Vec::new();
            let mut hybrid = Hybrid::new(&mut bytes, width);
            for (value, count) in runs {
                let value = value & ((1 << width) - 1);
                hybrid.push(value, count);
                expected.extend(std::iter::repeat_n(value, count));
            }
            hybrid.finish();
            prop_assert_eq!(decode(&bytes, width, expected.len()), expected);
        }

        #[test]
        fn packed_values_come_back(width in 1u32..=32, values in prop::collection::vec(any::<u32>(), 0..300)) {
            let mask = u32::MAX >> (32 - width);
            let expected: Vec<u32> = values.iter().map(|value| value & mask).collect();
            let mut bytes = Vec::new();
            packed(&mut bytes, &mut expected.clone(), width);
            prop_assert_eq!(decode(&bytes, width, expected.len()), expected);
        }
    }

    #[test]
    fn a_dictionary_of_n_entries_needs_the_bits_of_n_less_one() {
        for (count, bits) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9)] {
            assert_eq!(width_of(count), bits, "{count}");
        }
    }
}
