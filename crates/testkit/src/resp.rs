//! A raw Redis client: it sends any command and returns the server's reply as it is.
//! The Redis servers and the Upstash stand-in of this crate use it, and so do tests and benches.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

#[derive(Clone, Debug, PartialEq)]
pub enum RespReply {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<RespReply>),
}

impl RespReply {
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

/// One connection. After an error its state is unknown: drop it.
pub struct RespClient(BufStream<TcpStream>);

impl RespClient {
    pub async fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufStream::new(stream)))
    }

    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<RespReply> {
        self.write(args).await?;
        self.flush().await?;
        self.reply().await
    }

    /// Buffers a command of a pipeline: `flush` sends them, then `reply` is called once for each.
    pub async fn write<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let head = format!("*{}\r\n", args.len());
        self.0.write_all(head.as_bytes()).await?;
        for arg in args {
            let arg = arg.as_ref();
            let head = format!("${}\r\n", arg.len());
            self.0.write_all(head.as_bytes()).await?;
            self.0.write_all(arg).await?;
            self.0.write_all(b"\r\n").await?;
        }
        Ok(())
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await
    }

    pub async fn reply(&mut self) -> io::Result<RespReply> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end_matches(['\r', '\n']);
        let unexpected = || io::Error::other(format!("not a reply: {line:?}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(unexpected)?;
        let number = || rest.parse::<i64>().map_err(io::Error::other);
        Ok(match kind {
            "+" => RespReply::Status(rest.into()),
            "-" => RespReply::Error(rest.into()),
            ":" => RespReply::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => RespReply::Nil,
                Ok(len) => {
                    let mut bytes = vec![0; len + 2];
                    self.0.read_exact(&mut bytes).await?;
                    bytes.truncate(len);
                    RespReply::Bulk(bytes)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => RespReply::Nil,
                Ok(len) => {
                    let mut items = Vec::with_capacity(len);
                    for _ in 0..len {
                        items.push(Box::pin(self.reply()).await?);
                    }
                    RespReply::Array(items)
                }
            },
            _ => return Err(unexpected()),
        })
    }
}
