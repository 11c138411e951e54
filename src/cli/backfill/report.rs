//! What a backfill could not take: one JSON object a line, with file, line and reason. The lines themselves are not copied:
//! they may hold personal data, and stand in the file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
pub struct Bad {
    /// As the user named it.
    pub file: String,
    /// From 1 on.
    pub line: i64,
    /// In a batch, from 0 on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub item: Option<usize>,
    pub reason: String,
    pub because: String,
}

pub struct Report {
    pub path: PathBuf,
    /// Made with the first bad line.
    out: Option<BufWriter<File>>,
    pub written: u64,
}

impl Report {
    /// Of one file, from a line on: what an earlier run has reported of it from there on is taken out, since it will be
    /// reported again; what it has reported before, and of other files, stays.
    ///
    /// # Errors
    /// When an earlier report cannot be read or written.
    pub fn of(path: PathBuf, file: &str, from_line: i64) -> io::Result<Report> {
        match std::fs::read_to_string(&path) {
            Ok(earlier) => {
                let stays = |line: &&str| match serde_json::from_str::<Bad>(line) {
                    Ok(bad) => bad.file != file || bad.line < from_line,
                    Err(_) => false, // Cut off by a crash.
                };
                let kept: String = earlier.lines().filter(stays).map(|line| format!("{line}\n")).collect();
                if kept.is_empty() { std::fs::remove_file(&path)? } else { std::fs::write(&path, kept)? }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(Report { path, out: None, written: 0 })
    }

    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, bad: &Bad) -> io::Result<()> {
        let out = match &mut self.out {
            Some(out) => out,
            none => none.insert(BufWriter::new(OpenOptions::new().create(true).append(true).open(&self.path)?)),
        };
        serde_json::to_writer(&mut *out, bad)?;
        out.write_all(b"\n")?;
        self.written += 1;
        Ok(())
    }

    /// Before the bookmark goes past them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), BufWriter::flush)
    }
}
