//! A body that cannot grow past its limits: decompressed size, and size against what was sent.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;

/// Largest answer as a multiple of its compressed size.
pub(super) const MAX_RATIO: usize = 100;
/// While an answer streams in, its beginning may compress better than the whole: below this size
/// only the finished answer is held against [`MAX_RATIO`].
const RATIO_FLOOR: usize = 1024 * 1024;

/// Why a body is not usable.
pub(super) enum Unusable {
    /// More than this many bytes.
    TooLarge {
        limit: usize,
    },
    Corrupt(io::Error),
}

/// Takes a body chunk by chunk.
pub(super) struct Body {
    sink: Sink,
    max: usize,
    received: usize,
}

impl Body {
    pub(super) fn new(gzip: bool, max: usize) -> Self {
        let sink = if gzip {
            Sink::Gzip(Box::new(MultiGzDecoder::new(Capped::default())))
        } else {
            Sink::Plain(Capped::default())
        };
        Self {
            sink,
            max,
            received: 0,
        }
    }

    pub(super) fn push(&mut self, chunk: &[u8]) -> Result<(), Unusable> {
        self.received += chunk.len();
        let limit = match self.sink {
            Sink::Plain(_) => self.max,
            Sink::Gzip(_) => self.max.min(self.ratio_limit().max(RATIO_FLOOR)),
        };
        self.sink.capped().limit = limit;
        self.sink.write(chunk).map_err(|e| self.unusable(e))
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, Unusable> {
        let limit = match self.sink {
            Sink::Plain(_) => self.max,
            Sink::Gzip(_) => self.max.min(self.ratio_limit()),
        };
        self.sink.flush().map_err(|e| self.unusable(e))?;
        let bytes = std::mem::take(&mut self.sink.capped().bytes);
        if bytes.len() > limit {
            return Err(Unusable::TooLarge { limit });
        }
        Ok(bytes)
    }

    fn ratio_limit(&self) -> usize {
        self.received.saturating_mul(MAX_RATIO)
    }

    fn unusable(&mut self, error: io::Error) -> Unusable {
        let capped = self.sink.capped();
        if capped.overflowed {
            Unusable::TooLarge {
                limit: capped.limit,
            }
        } else {
            Unusable::Corrupt(error)
        }
    }
}

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
    Plain(Capped),
    Gzip(Box<MultiGzDecoder<Capped>>),
}

impl Sink {
    fn capped(&mut self) -> &mut Capped {
        match self {
            Self::Plain(capped) => capped,
            Self::Gzip(decoder) => decoder.get_mut(),
        }
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(capped) => capped.write_all(chunk),
            Self::Gzip(decoder) => decoder.write_all(chunk),
        }
    }

    /// Also checks that a compressed body is whole.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
        }
    }
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
        for chunk in compressed.chunks(1000) {
            body.push(chunk)?;
        }
        body.finish()
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
