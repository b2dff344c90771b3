//! Parts of an answer as the engine gives them: samples or buckets.

use systole_engine::{Bucket, BucketStream, QueryError, SampleChunk, SampleStream};

use super::cursor::Place;

/// Some samples or buckets, in the order asked for.
#[derive(Debug)]
pub(super) enum Part {
    Samples(Box<SampleChunk>),
    Buckets(Vec<Bucket>),
}

/// An answer as it comes.
#[derive(Debug)]
pub(super) enum PartStream {
    Samples(SampleStream),
    Buckets(BucketStream),
}

impl Part {
    pub(super) fn len(&self) -> usize {
        match self {
            Part::Samples(chunk) => chunk.len(),
            Part::Buckets(buckets) => buckets.len(),
        }
    }

    /// Where a page ends whose last sample or bucket is this one.
    pub(super) fn place(&self, at: usize) -> Place {
        match self {
            Part::Samples(chunk) => Place::Sample(chunk.row(at).position()),
            Part::Buckets(buckets) => Place::Bucket(buckets[at].position()),
        }
    }
}

impl PartStream {
    /// The next part with something in it; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Part, QueryError>> {
        loop {
            let part = match self {
                PartStream::Samples(stream) => {
                    stream.next().await?.map(|chunk| Part::Samples(Box::new(chunk)))
                }
                PartStream::Buckets(stream) => stream.next().await?.map(Part::Buckets),
            };
            match part {
                Ok(part) if part.len() == 0 => {}
                part => return Some(part),
            }
        }
    }
}
