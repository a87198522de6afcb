//! Reads a compressed or plain file line by line; memory holds one line, not the file. `Recording`
//! uses it.

use std::io::{self, BufRead, BufReader, Read};

use oddsd_core::model::strip_byte_order_mark;

/// Longest record: an answer of 64 MiB, escaped as a JSON string.
pub const MAX_RECORD: usize = 192 * 1024 * 1024;
/// The window of `zstd --long=27`: a file may make the decoder allocate 128 MiB, not 2 GiB.
const MAX_WINDOW_LOG: u32 = 27;

type ByteSource = Box<dyn BufRead + Send>;

/// The result of one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineRead {
    Line,
    /// Longer than [`MAX_RECORD`]: skipped.
    TooLong,
    End,
}

pub struct LineReader(ByteSource);

impl LineReader {
    /// Detects the compression by the first bytes, because file names are not reliable.
    pub fn new(mut source: impl BufRead + Send + 'static) -> io::Result<Self> {
        let magic = source.fill_buf()?;
        Ok(Self(if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let mut decoder = zstd::Decoder::with_buffer(source)?;
            decoder.window_log_max(MAX_WINDOW_LOG)?;
            Box::new(BufReader::new(decoder))
        } else if magic.starts_with(b"BZh") {
            bzip2_reader(source)?
        } else if magic.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(source)))
        } else {
            Box::new(source)
        }))
    }

    /// Reads the next line into `line`, without its end.
    pub fn read_line(&mut self, line: &mut Vec<u8>) -> io::Result<LineRead> {
        line.clear();
        let limit = MAX_RECORD as u64 + 1;
        if self.0.by_ref().take(limit).read_until(b'\n', line)? == 0 {
            return Ok(LineRead::End);
        }
        if line.len() > MAX_RECORD && !line.ends_with(b"\n") {
            line.clear();
            self.0.skip_until(b'\n')?;
            return Ok(LineRead::TooLong);
        }
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        // Files that were joined have a mark at the beginning of each.
        let mark = line.len() - strip_byte_order_mark(line).len();
        line.drain(..mark);
        Ok(LineRead::Line)
    }

    /// Appends the rest of the file to `text`, for a file that is one pretty-printed object.
    pub fn read_rest(&mut self, text: &mut Vec<u8>) -> io::Result<LineRead> {
        let limit = (MAX_RECORD + 1).saturating_sub(text.len()) as u64;
        self.0.by_ref().take(limit).read_to_end(text)?;
        match text.len() > MAX_RECORD {
            true => Ok(LineRead::TooLong),
            false => Ok(LineRead::Line),
        }
    }
}

/// Betfair compresses its historical files with bzip2; no other feed does.
#[cfg(feature = "betfair")]
fn bzip2_reader(source: impl BufRead + Send + 'static) -> io::Result<ByteSource> {
    let decoder = bzip2::bufread::MultiBzDecoder::new(source);
    Ok(Box::new(BufReader::new(decoder)))
}

#[cfg(not(feature = "betfair"))]
fn bzip2_reader(_: impl BufRead + Send + 'static) -> io::Result<ByteSource> {
    let why = "it is compressed with bzip2, which needs a build with the feature `betfair`";
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}
