//! What a backfill could not take: one JSON object a line, with file, line and reason. The lines themselves are not copied:
//! they may hold personal data, and stand in the file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Of every line, since `file` comes first.
const BEGINNING: &[u8] = br#"{"file":""#;

#[derive(Debug, Serialize, Deserialize)]
pub struct Bad {
    /// Its full path, so that two of one name are two; `standard input`.
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
    /// reported again; what it has reported before, and of other files, stays. `None`: a stream, of which nothing is taken out.
    ///
    /// # Errors
    /// When what is there is no report, or cannot be read or written.
    pub fn of(path: PathBuf, file: Option<&str>, from_line: i64) -> io::Result<Report> {
        if let Some(earlier) = Earlier::read(&path)? {
            let stays = |(_, bad): &&(String, Bad)| Some(bad.file.as_str()) != file || bad.line < from_line;
            let kept: String = earlier.lines.iter().filter(stays).map(|(line, _)| format!("{line}\n")).collect();
            if kept.len() < earlier.length {
                replace(&path, &kept)?;
            }
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

/// What an earlier run has reported.
struct Earlier {
    /// As they stand there.
    lines: Vec<(String, Bad)>,
    length: usize,
}

impl Earlier {
    /// `None`: there is nothing, or no file (`/dev/null`) that could be read and written anew.
    fn read(path: &Path) -> io::Result<Option<Earlier>> {
        match std::fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(metadata) if !metadata.is_file() => return Ok(None),
            Ok(_) => {}
        }
        let bytes = std::fs::read(path)?;
        let lines = lines(&bytes).ok_or_else(|| {
            let other = "it is there already and is no report of an earlier run: name another with --report FILE";
            io::Error::new(io::ErrorKind::InvalidData, other)
        })?;
        Ok(Some(Earlier { lines, length: bytes.len() }))
    }
}

/// The lines of a report, without a last one that a crash has cut off; `None`: it is something else.
fn lines(report: &[u8]) -> Option<Vec<(String, Bad)>> {
    let mut lines: Vec<&[u8]> = report.split(|byte| *byte == b'\n').collect();
    let cut = lines.pop().unwrap_or_default();
    let may_be_cut = cut.starts_with(BEGINNING) || BEGINNING.starts_with(cut);
    let read = |line: &&[u8]| {
        let line = std::str::from_utf8(line).ok()?;
        Some((line.to_owned(), serde_json::from_str(line).ok()?))
    };
    lines.iter().map(read).collect::<Option<_>>().filter(|_| may_be_cut)
}

/// By a rename, so that a crash leaves one of the two.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = path.canonicalize()?; // A link stays one.
    if text.is_empty() {
        return std::fs::remove_file(path);
    }
    let mut beside = path.clone().into_os_string();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}

/// Looks whether a report can go there, before anything is sent: by opening it as it will be opened, and leaving what is there
/// as it is.
///
/// # Errors
/// As `Report::of`.
pub fn verify(path: &Path) -> io::Result<()> {
    Earlier::read(path)?;
    let there = std::fs::metadata(path);
    if there.as_ref().is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        return Ok(()); // Whoever reads from a pipe would take its being closed again for the end.
    }
    OpenOptions::new().create(true).append(true).open(path)?;
    match there {
        Ok(_) => Ok(()),
        Err(_) => std::fs::remove_file(path.canonicalize()?), // A link stays one.
    }
}

/// Whether an earlier run has written it.
pub fn is_one(path: &Path) -> bool {
    Earlier::read(path).is_ok_and(|earlier| earlier.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_lines_of_its_own_and_at_most_the_last_is_cut() {
        let bad = Bad { file: "a".into(), line: 1, item: None, reason: "r".into(), because: "b".into() };
        let line = serde_json::to_string(&bad).expect("JSON");
        let count = |text: &str| lines(text.as_bytes()).map(|lines| lines.len());
        let end = line.len();
        for cut in [0, 1, 8, 12, end] {
            assert_eq!(count(&format!("{line}\n{line}\n{}", &line[..cut])), Some(2), "{cut}");
        }
        let event = r#"{"type":"identify"}"#;
        for other in [event, &format!("{event}\n"), &format!("{line}\n{event}\n"), "\n", &format!("{line}\n\n{line}\n")]
        {
            assert_eq!(count(other), None, "{other}");
        }
        assert_eq!(count(""), Some(0));
    }
}
