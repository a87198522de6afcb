//! A temporary folder of this process, gone with its value.

use std::path::{Path, PathBuf};

use anyhow::Context;

pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> anyhow::Result<Self> {
        let (process, luck) = (std::process::id(), fastrand::u32(..));
        let folder = std::env::temp_dir().join(format!("oddsd-bench-{process}-{luck:08x}"));
        std::fs::create_dir(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
