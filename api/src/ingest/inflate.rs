//! Inflating a body, within limits.
//!
//! A bomb is stopped by whichever comes first: the inflated length, the ratio
//! once a mebibyte is out, or the byte budget, which is taken as the body grows.

use std::io::{self, Read};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use systole_engine::Permit;

use super::body::grow;
use super::pool::Pool;
use crate::error::Refusal;
use crate::settings::IngestSettings;

/// Small bodies compress well, so the ratio counts from here on.
const RATIO_FROM_BYTES: usize = 1024 * 1024;
/// Inflated at a time.
const STEP_BYTES: usize = 64 * 1024;
/// Largest window a zstd frame may ask for, as a power of two: 8 MiB, the size
/// every decoder should take (RFC 8878).
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Zstd => "zstd",
        }
    }
}

/// Replaces a compressed body by the inflated one.
pub(super) fn inflate(
    encoding: Encoding,
    pool: &Arc<Pool>,
    buffer: &mut Vec<u8>,
    limits: &IngestSettings,
    permit: &mut Permit,
) -> Result<(), Refusal> {
    let mut inflated = pool.body();
    let packed = buffer.as_slice();
    let steps = Steps { encoding, packed_bytes: packed.len(), limits };
    match encoding {
        Encoding::Gzip => steps.run(MultiGzDecoder::new(packed), &mut inflated, permit)?,
        Encoding::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed);
            let mut decoder = decoder.map_err(|fault| steps.malformed(&fault))?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|fault| steps.malformed(&fault))?;
            steps.run(decoder, &mut inflated, permit)?;
        }
    }
    std::mem::swap(buffer, &mut inflated);
    Ok(())
}

struct Steps<'a> {
    encoding: Encoding,
    packed_bytes: usize,
    limits: &'a IngestSettings,
}

impl Steps<'_> {
    fn run(&self, mut from: impl Read, out: &mut Vec<u8>, permit: &mut Permit) -> Result<(), Refusal> {
        loop {
            let before = out.len();
            let step = from.by_ref().take(STEP_BYTES as u64).read_to_end(out);
            let step = step.map_err(|fault| self.malformed(&fault))?;
            self.check(out.len())?;
            if step == 0 {
                return Ok(());
            }
            grow(permit, out.len() - before)?;
        }
    }

    fn check(&self, inflated_bytes: usize) -> Result<(), Refusal> {
        if inflated_bytes > self.limits.inflated_bytes_max {
            return Err(Refusal::InflatedTooLarge { limit: self.limits.inflated_bytes_max });
        }
        let ratio = inflated_bytes / self.packed_bytes.max(1);
        if inflated_bytes > RATIO_FROM_BYTES && ratio > self.limits.inflate_ratio_max {
            return Err(Refusal::RatioTooLarge { limit: self.limits.inflate_ratio_max });
        }
        Ok(())
    }

    fn malformed(&self, fault: &io::Error) -> Refusal {
        Refusal::MalformedEncoding { encoding: self.encoding.name(), reason: fault.to_string() }
    }
}
