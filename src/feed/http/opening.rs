//! How a body begins. A login page or a proxy's apology is told apart here, so that its reader hears
//! "HTML" and not "expected value at line 1".

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// What begins like no JSON object or list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Odd {
    Html,
    Empty,
    Other,
}

/// Looks at the first bytes until there is one that tells.
#[derive(Default)]
pub(super) struct Opening {
    /// Bytes of the mark that have come.
    marked: usize,
    spaces: bool,
    begun: bool,
}

impl Opening {
    /// The chunk without a byte order mark and without white space before the document.
    pub(super) fn pass<'c>(&mut self, chunk: &'c [u8]) -> Result<&'c [u8], Odd> {
        let mut rest = chunk;
        while !self.begun {
            let Some((byte, after)) = rest.split_first() else {
                break;
            };
            let in_mark = 1..BYTE_ORDER_MARK.len();
            match byte {
                _ if !self.spaces && BYTE_ORDER_MARK.get(self.marked) == Some(byte) => {
                    self.marked += 1;
                }
                _ if in_mark.contains(&self.marked) => return Err(Odd::Other),
                b' ' | b'\n' | b'\r' | b'\t' => self.spaces = true,
                b'{' | b'[' => {
                    self.begun = true;
                    return Ok(rest);
                }
                b'<' => return Err(Odd::Html),
                _ => return Err(Odd::Other),
            }
            rest = after;
        }
        Ok(rest)
    }

    /// At the end of the body.
    pub(super) fn finish(&self) -> Result<(), Odd> {
        match self.begun {
            true => Ok(()),
            false if (1..BYTE_ORDER_MARK.len()).contains(&self.marked) => Err(Odd::Other),
            false => Err(Odd::Empty),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &[u8], chunk: usize) -> Result<Vec<u8>, Odd> {
        let mut opening = Opening::default();
        let mut passed = Vec::new();
        for chunk in body.chunks(chunk) {
            passed.extend_from_slice(opening.pass(chunk)?);
        }
        opening.finish()?;
        Ok(passed)
    }

    #[test]
    fn the_first_byte_tells_however_the_body_is_cut() {
        let cases: [(&[u8], Result<&str, Odd>); 10] = [
            (b"{} ", Ok("{} ")),
            (b" \r\n\t[\xff", Ok("[\u{fffd}")),
            (b"\xef\xbb\xbf {1", Ok("{1")),
            (b"", Err(Odd::Empty)),
            (b" \n", Err(Odd::Empty)),
            (b"\xef\xbb\xbf", Err(Odd::Empty)),
            (b" <html>{}", Err(Odd::Html)),
            (b"\xef\xbb{}", Err(Odd::Other)),
            (b" \xef\xbb\xbf{}", Err(Odd::Other)),
            (b"hello {}", Err(Odd::Other)),
        ];
        for (body, expected) in cases {
            for chunk in [1, 2, 100] {
                let found = read(body, chunk);
                let found = found.map(|text| String::from_utf8_lossy(&text).into_owned());
                assert_eq!(found.as_deref(), expected.as_ref().map(|t| *t), "{body:?}");
            }
        }
    }
}
