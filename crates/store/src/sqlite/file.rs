//! Notices that the database file was deleted, moved away or replaced while it is open: SQLite would go on writing
//! into a file that no path leads to. Each use of a connection checks it first.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Result, StoreError};

/// The file that was opened.
#[derive(Clone)]
pub struct OpenFile(Arc<FileState>);

struct FileState {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
    is_lost: AtomicBool,
}

impl OpenFile {
    /// `path` is open already.
    pub fn at(path: PathBuf) -> io::Result<Self> {
        Ok(Self(Arc::new(FileState {
            identity: identity(&path)?,
            path,
            is_lost: AtomicBool::new(false),
        })))
    }

    /// Names the file: a copy has another inode, and another machine may have a file with the same one.
    pub fn identity(&self) -> String {
        let machine = ["/etc/machine-id", "/etc/hostname"].map(std::fs::read_to_string);
        let machine: Vec<String> = machine.into_iter().flatten().collect();
        let path = self.0.path.canonicalize();
        let path = path.unwrap_or_else(|_| self.0.path.clone());
        let (device, inode) = self.0.identity;
        format!("{} {} {device} {inode}", machine.concat(), path.display())
    }

    /// Fails while its path leads to no file or to another one. When the file is back, its connections go on. Another
    /// file needs a restart: what readers, caches and memory know belongs to the first one.
    pub fn check(&self) -> Result<()> {
        let file = &*self.0;
        let path = file.path.display();
        let why = match identity(&file.path) {
            Ok(found) if found == file.identity => {
                if file.is_lost.swap(false, Ordering::Relaxed) {
                    tracing::info!(
                        event = "store.file_back",
                        file = %path,
                        "The database file is back"
                    );
                }
                return Ok(());
            }
            Ok(_) => format!(
                "{path} is another file than the one that oddsd has open; restart oddsd to use it, or put the first one back"
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => format!(
                "{path} was deleted or moved away while oddsd had it open; put it back, or restart oddsd to begin with an \
                 empty database"
            ),
            Err(error) => format!("{path} cannot be looked up ({error}); check its folder"),
        };
        if !file.is_lost.swap(true, Ordering::Relaxed) {
            tracing::error!(
                event = "store.file_lost",
                error = why,
                "The database file is gone: nothing is stored until it is back"
            );
        }
        Err(StoreError::Down(why))
    }
}

fn identity(path: &PathBuf) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
