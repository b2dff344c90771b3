//! Checksums over blocks of a file: parquet writes none of its own pages'.

/// Bytes under one checksum.
pub const BLOCK_BYTES: usize = 64 * 1024;

/// A block that does not match its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("block {block} (byte {offset}) has checksum {actual:#010x}, the catalog says {expected:#010x}")]
pub struct BlockFault {
    /// Its number.
    pub block: usize,
    /// Its first byte.
    pub offset: u64,
    /// In the catalog.
    pub expected: u32,
    /// Of the bytes read.
    pub actual: u32,
}

/// Checks `bytes`, which begin at block `first`, against the file's checksums.
///
/// # Errors
/// The first block that differs; a block the catalog does not know counts as 0.
pub fn check_blocks(bytes: &[u8], first: usize, checksums: &[u32]) -> Result<(), BlockFault> {
    for (block, content) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
        let expected = checksums.get(block).copied().unwrap_or_default();
        let actual = crc32c::crc32c(content);
        if actual != expected {
            return Err(BlockFault { block, offset: (block * BLOCK_BYTES) as u64, expected, actual });
        }
    }
    Ok(())
}

/// Collects the checksums of bytes as they are written.
#[derive(Debug, Default)]
pub(super) struct BlockChecksums {
    done: Vec<u32>,
    open: u32,
    open_bytes: usize,
}

impl BlockChecksums {
    pub(super) fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.open_bytes));
            self.open = crc32c::crc32c_append(self.open, now);
            self.open_bytes += now.len();
            if self.open_bytes == BLOCK_BYTES {
                self.done.push(self.open);
                (self.open, self.open_bytes) = (0, 0);
            }
            bytes = rest;
        }
    }

    pub(super) fn finish(mut self) -> Vec<u32> {
        if self.open_bytes > 0 {
            self.done.push(self.open);
        }
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_do_not_depend_on_how_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..3 * BLOCK_BYTES + 17).map(|at| (at % 251) as u8).collect();
        for part in [1000, BLOCK_BYTES, BLOCK_BYTES + 1, bytes.len()] {
            let mut sums = BlockChecksums::default();
            bytes.chunks(part).for_each(|chunk| sums.add(chunk));
            let sums = sums.finish();
            assert_eq!(sums.len(), 4);
            assert_eq!(check_blocks(&bytes, 0, &sums), Ok(()));
            assert_eq!(check_blocks(&bytes[BLOCK_BYTES..], 1, &sums), Ok(()));
        }
    }

    #[test]
    fn a_flipped_bit_is_named_by_its_block() {
        let mut bytes = vec![7; 2 * BLOCK_BYTES];
        let mut sums = BlockChecksums::default();
        sums.add(&bytes);
        bytes[BLOCK_BYTES + 5] ^= 1;
        let fault = check_blocks(&bytes, 0, &sums.finish()).unwrap_err();
        assert_eq!((fault.block, fault.offset), (1, BLOCK_BYTES as u64));
    }
}
