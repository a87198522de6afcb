//! A body that cannot grow past its limits: decompressed size, and size against what was sent.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

use crate::feed::FeedError;

/// Largest answer as a multiple of its compressed size.
pub(super) const MAX_RATIO: usize = 100;
/// While an answer streams in, its beginning may compress better than the whole: below this size
/// only the finished answer is held against [`MAX_RATIO`].
const RATIO_FLOOR: usize = 1024 * 1024;

/// Compressed bytes taken at once: what they become has to be held for a moment.
const BITE: usize = 4 * 1024;

/// Why a body is not usable.
pub(super) enum Unusable {
    /// More than this many bytes.
    TooLarge {
        limit: usize,
    },
    Corrupt(io::Error),
    /// Whoever took it did not want it.
    Unwanted(FeedError),
}

/// Takes a body chunk by chunk, and hands it on decompressed.
pub(super) struct Body {
    sink: Sink,
    max: usize,
    received: usize,
    passed_on: usize,
}

impl Body {
    pub(super) fn new(gzip: bool, max: usize) -> Self {
        let sink = if gzip {
            Sink::Gzip(Box::new(MultiGzDecoder::new(Capped::default())))
        } else {
            Sink::Plain
        };
        Self {
            sink,
            max,
            received: 0,
            passed_on: 0,
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8], to: Taker<'_>) -> Result<(), Unusable> {
        match &self.sink {
            Sink::Plain => {
                self.received += chunk.len();
                if self.received > self.max {
                    return Err(Unusable::TooLarge { limit: self.max });
                }
                to(chunk).map_err(Unusable::Unwanted)
            }
            Sink::Gzip(_) => chunk
                .chunks(BITE)
                .try_for_each(|bite| self.decompress(bite, to)),
        }
    }

    /// Also checks that a compressed body is whole.
    pub(super) fn finish(mut self, to: Taker<'_>) -> Result<(), Unusable> {
        let limit = self.max.min(self.ratio_limit());
        let Sink::Gzip(decoder) = &mut self.sink else {
            return Ok(());
        };
        decoder.get_mut().limit = usize::MAX;
        decoder.try_finish().map_err(Unusable::Corrupt)?;
        self.hand_on(to)?;
        match self.passed_on > limit {
            true => Err(Unusable::TooLarge { limit }),
            false => Ok(()),
        }
    }

    fn decompress(&mut self, bite: &[u8], to: Taker<'_>) -> Result<(), Unusable> {
        self.received += bite.len();
        let limit = self.max.min(self.ratio_limit().max(RATIO_FLOOR));
        let Sink::Gzip(decoder) = &mut self.sink else {
            return Ok(());
        };
        decoder.get_mut().limit = limit.saturating_sub(self.passed_on);
        if let Err(error) = decoder.write_all(bite) {
            return Err(match decoder.get_ref().overflowed {
                true => Unusable::TooLarge { limit },
                false => Unusable::Corrupt(error),
            });
        }
        self.hand_on(to)
    }

    fn hand_on(&mut self, to: Taker<'_>) -> Result<(), Unusable> {
        let Sink::Gzip(decoder) = &mut self.sink else {
            return Ok(());
        };
        let bytes = &mut decoder.get_mut().bytes;
        self.passed_on += bytes.len();
        let taken = match bytes.is_empty() {
            true => Ok(()),
            false => to(bytes).map_err(Unusable::Unwanted),
        };
        bytes.clear();
        taken
    }

    fn ratio_limit(&self) -> usize {
        self.received.saturating_mul(MAX_RATIO)
    }
}

/// Takes the decompressed body piece by piece; its error ends the reading.
pub(super) type Taker<'a> = &'a mut (dyn FnMut(&[u8]) -> Result<(), FeedError> + Send);

/// A buffer that refuses to grow over its limit.
#[derive(Default)]
struct Capped {
    bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Write for Capped {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + chunk.len() > self.limit {
            self.overflowed = true;
            return Err(io::Error::other("over the limit"));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Sink {
    Plain,
    Gzip(Box<MultiGzDecoder<Capped>>),
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).expect("memory");
        encoder.finish().expect("memory")
    }

    fn read(compressed: &[u8], max: usize) -> Result<Vec<u8>, Unusable> {
        let mut body = Body::new(true, max);
        let mut whole = Vec::new();
        let mut to = |piece: &[u8]| {
            whole.extend_from_slice(piece);
            Ok(())
        };
        for chunk in compressed.chunks(1000) {
            body.push(chunk, &mut to)?;
        }
        body.finish(&mut to)?;
        Ok(whole)
    }

    #[test]
    fn a_bomb_is_refused_large_or_small_and_a_cut_body_is_not_a_body() {
        let honest: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        assert!(read(&gzip(&honest), usize::MAX).is_ok_and(|body| body == honest));
        for zeros in [200_000, 50_000_000] {
            let bomb = gzip(&vec![0; zeros]);
            assert!(matches!(
                read(&bomb, usize::MAX),
                Err(Unusable::TooLarge { .. })
            ));
        }
        let over = read(&gzip(&honest), honest.len() - 1);
        assert!(matches!(over, Err(Unusable::TooLarge { .. })));
        let whole = gzip(&honest);
        let cut = read(&whole[..whole.len() - 9], usize::MAX);
        assert!(matches!(cut, Err(Unusable::Corrupt(_))));
    }
}
