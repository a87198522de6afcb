//! A pipe that is full: whoever writes to it waits until it is read. Tests of output that nobody reads use it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::net::unix::pipe;

/// The reading end, and the writing end for a child process. A line without an end fills the pipe.
pub async fn full_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (writer, reader) = pipe::pipe()?;
    writer.writable().await?;
    // Whole pages, so that not one byte of space is left.
    let page = [b'.'; 4096];
    while writer.try_write(&page).is_ok() {}
    Ok((reader, writer.into_blocking_fd()?))
}
