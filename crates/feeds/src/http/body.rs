//! Bounded decompression of a response body, and a check of its first bytes. `ProviderClient` applies both
//! before a parser gets the body.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use oddsd_core::model::strip_byte_order_mark;

/// Largest decompressed size as a multiple of the compressed size.
pub(super) const MAX_RATIO: usize = 100;

/// Why a body cannot be used.
#[derive(Debug)]
pub(super) enum BodyError {
    TooLarge { limit: usize },
    Corrupt(io::Error),
}

/// Decompresses a whole body to at most `max` bytes and at most [`MAX_RATIO`] times its size.
pub(super) fn gunzip(compressed: &[u8], max: usize) -> Result<Vec<u8>, BodyError> {
    let limit = max.min(compressed.len().saturating_mul(MAX_RATIO));
    let mut plain = Vec::new();
    MultiGzDecoder::new(compressed)
        .take(limit as u64 + 1)
        .read_to_end(&mut plain)
        .map_err(BodyError::Corrupt)?;
    match plain.len() > limit {
        true => Err(BodyError::TooLarge { limit }),
        false => Ok(plain),
    }
}

/// A body that does not begin like a JSON object or list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnexpectedContent {
    Html,
    Empty,
    Other,
}

/// Skips a byte order mark and white space. A login page or a proxy's error page is reported as HTML,
/// which is clearer than "expected value at line 1".
pub(super) fn json_start(body: &[u8]) -> Result<usize, UnexpectedContent> {
    let text = strip_byte_order_mark(body).trim_ascii_start();
    match text.first() {
        Some(b'{' | b'[') => Ok(body.len() - text.len()),
        Some(b'<') => Err(UnexpectedContent::Html),
        Some(_) => Err(UnexpectedContent::Other),
        None => Err(UnexpectedContent::Empty),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn gzip_bombs_and_truncated_bodies_are_refused() {
        let honest: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
        let whole = gzip(&honest);
        assert!(gunzip(&whole, usize::MAX).is_ok_and(|body| body == honest));
        for zeros in [200_000, 50_000_000] {
            let bomb = gunzip(&gzip(&vec![0; zeros]), usize::MAX);
            assert!(matches!(bomb, Err(BodyError::TooLarge { .. })));
        }
        let over = gunzip(&whole, honest.len() - 1);
        assert!(matches!(over, Err(BodyError::TooLarge { .. })));
        let cut = gunzip(&whole[..whole.len() - 9], usize::MAX);
        assert!(matches!(cut, Err(BodyError::Corrupt(_))));
    }

    #[test]
    fn first_bytes_tell_json_from_html_and_other_content() {
        use UnexpectedContent::{Empty, Html, Other};
        let cases: [(&[u8], Result<usize, UnexpectedContent>); 10] = [
            (b"{} ", Ok(0)),
            (b" \r\n\t[\xff", Ok(4)),
            (b"\xef\xbb\xbf {1", Ok(4)),
            (b"", Err(Empty)),
            (b" \n", Err(Empty)),
            (b"\xef\xbb\xbf", Err(Empty)),
            (b" <html>{}", Err(Html)),
            (b"\xef\xbb{}", Err(Other)),
            (b" \xef\xbb\xbf{}", Err(Other)),
            (b"hello {}", Err(Other)),
        ];
        for (body, expected) in cases {
            assert_eq!(json_start(body), expected, "{body:?}");
        }
    }
}
