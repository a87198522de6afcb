//! A raw Redis connection, so that tests can say anything to a server and see exactly what it answers.

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;

#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Status(String),
    Error(String),
    Int(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Reply>),
}

impl Reply {
    pub fn text(&self) -> String {
        match self {
            Self::Status(text) | Self::Error(text) => text.clone(),
            Self::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("{other:?}"),
        }
    }
}

pub struct Resp(BufStream<TcpStream>);

impl Resp {
    pub async fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self(BufStream::new(stream)))
    }

    pub async fn command<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Reply> {
        self.0
            .write_all(format!("*{}\r\n", args.len()).as_bytes())
            .await?;
        for arg in args {
            let arg = arg.as_ref();
            self.0
                .write_all(format!("${}\r\n", arg.len()).as_bytes())
                .await?;
            self.0.write_all(arg).await?;
            self.0.write_all(b"\r\n").await?;
        }
        self.0.flush().await?;
        self.reply().await
    }

    fn reply(&mut self) -> Pin<Box<dyn Future<Output = io::Result<Reply>> + Send + '_>> {
        Box::pin(async move {
            let mut line = String::new();
            if self.0.read_line(&mut line).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end_matches(['\r', '\n']);
            let (kind, rest) = line.split_at(1);
            let number = || rest.parse::<i64>().map_err(io::Error::other);
            Ok(match kind {
                "+" => Reply::Status(rest.into()),
                "-" => Reply::Error(rest.into()),
                ":" => Reply::Int(number()?),
                "$" => match usize::try_from(number()?) {
                    Err(_) => Reply::Nil,
                    Ok(len) => {
                        let mut bytes = vec![0; len + 2];
                        self.0.read_exact(&mut bytes).await?;
                        bytes.truncate(len);
                        Reply::Bulk(bytes)
                    }
                },
                "*" => match usize::try_from(number()?) {
                    Err(_) => Reply::Nil,
                    Ok(len) => {
                        let mut items = Vec::with_capacity(len);
                        for _ in 0..len {
                            items.push(self.reply().await?);
                        }
                        Reply::Array(items)
                    }
                },
                _ => return Err(io::Error::other(format!("not a reply: {line}"))),
            })
        })
    }
}
