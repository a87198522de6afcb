//! A file's lines, whichever way it is compressed, one at a time: memory holds one line, not the
//! file. How a file is compressed is told by its first bytes, because names lie.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;

/// Longest record: an answer of 64 MiB, escaped as a JSON string.
pub const MAX_RECORD: usize = 192 * 1024 * 1024;
/// As far back as `zstd --long=27` refers; a file may ask for 128 MiB of memory, not for 2 GiB.
const MAX_WINDOW_LOG: u32 = 27;

/// What is at the reader's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    Line,
    /// Longer than [`MAX_RECORD`]: skipped.
    TooLong,
    End,
}

pub struct Lines {
    reader: Box<dyn BufRead + Send>,
}

impl Lines {
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot open the recording {}", path.display());
        let mut file = BufReader::new(File::open(path).with_context(cannot)?);
        let magic = file.fill_buf().with_context(cannot)?;
        let reader: Box<dyn BufRead + Send> = if magic.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            let mut decoder = zstd::Decoder::with_buffer(file).with_context(cannot)?;
            decoder
                .window_log_max(MAX_WINDOW_LOG)
                .with_context(cannot)?;
            Box::new(BufReader::new(decoder))
        } else if magic.starts_with(b"BZh") {
            Box::new(BufReader::new(bzip2::bufread::MultiBzDecoder::new(file)))
        } else if magic.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file)))
        } else {
            Box::new(file)
        };
        Ok(Self { reader })
    }

    /// Reads the next line into `line`, without its end.
    pub fn read(&mut self, line: &mut Vec<u8>) -> io::Result<At> {
        line.clear();
        let limit = MAX_RECORD as u64 + 1;
        if self.reader.by_ref().take(limit).read_until(b'\n', line)? == 0 {
            return Ok(At::End);
        }
        if line.len() > MAX_RECORD && !line.ends_with(b"\n") {
            line.clear();
            self.reader.skip_until(b'\n')?;
            return Ok(At::TooLong);
        }
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        Ok(At::Line)
    }

    /// Everything that is left, for a file that is one pretty-printed object.
    pub fn read_rest(&mut self, text: &mut Vec<u8>) -> io::Result<At> {
        let limit = (MAX_RECORD + 1).saturating_sub(text.len()) as u64;
        self.reader.by_ref().take(limit).read_to_end(text)?;
        match text.len() > MAX_RECORD {
            true => Ok(At::TooLong),
            false => Ok(At::Line),
        }
    }
}
