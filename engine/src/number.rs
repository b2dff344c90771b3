//! Numbers as JSON has them: the shortest decimal that reads as the same `f64`.
//!
//! Most of what wearables measure is a whole number or has one decimal, and is written
//! by integer arithmetic; the rest by an algorithm for any number.

/// Below this, tenths are exact enough that two of them never read as one number, and
/// the shortest form has no exponent.
const SMALL: f64 = 1e9;

/// Appends a finite number, a whole one as `62.0`.
#[inline]
pub fn write_finite(number: f64, out: &mut Vec<u8>) {
    let tenths = (number * 10.0).round();
    // The quotient is the number nearest to this decimal; if it is this number, no
    // other decimal as short is.
    if tenths.abs() < SMALL && tenths / 10.0 == number && (number != 0.0 || number.is_sign_positive()) {
        let (whole, tenth) = ((tenths.abs() as u32) / 10, (tenths.abs() as u32) % 10);
        if number < 0.0 {
            out.push(b'-');
        }
        out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        out.extend_from_slice(&[b'.', b'0' + tenth as u8]);
    } else {
        out.extend_from_slice(zmij::Buffer::new().format_finite(number).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_numbers_are_written_as_the_algorithm_for_any_writes_them() {
        let tenths = (-20_000..20_000).map(|tenths| f64::from(tenths) / 10.0);
        let thousandths = (0..30_000).map(|number| f64::from(number) / 1000.0);
        let edges: [f64; 12] =
            [0.0, -0.0, 1e8, 99_999_999.9, 1e9, 1e15, 1e16, 1e17, 1e22, -1e8, 0.1 + 0.2, 1.0 / 3.0];
        let near = edges.iter().flat_map(|edge| [edge.next_up(), edge.next_down()]);
        let spread = (0..20_000_u64).map(|number| f64::from_bits(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        let all = tenths.chain(thousandths).chain(edges).chain(near).chain(spread);
        for number in all.filter(|number| number.is_finite()) {
            let mut written = Vec::new();
            write_finite(number, &mut written);
            let expected = zmij::Buffer::new().format_finite(number).to_owned();
            assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }
}
