//! A file of lines, plain or compressed by gzip or zstd, which its first bytes tell.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::GzDecoder;
use memchr::memchr;

use super::stream::Stream;
use crate::cli::Stopped;

/// Enough for any batch; without an end, a file without line ends would fill the memory.
const LONGEST: usize = 64 << 20;
pub const TOO_LONG: &str = "its line is longer than 64 MiB";
/// So much of a file's beginning tells it from others.
const BEGINNING: u64 = 64 << 10;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Behind a first byte of 0x50 to 0x5f: a frame to be skipped, with which `pzstd` begins.
const ZSTD_SKIPPED: &[u8] = &[0x2a, 0x4d, 0x18];

/// A file that is there and can be read, or standard input.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    /// `None`: it is no file.
    pub canonical: Option<PathBuf>,
    /// 0: nobody knows.
    pub length: u64,
    /// A hash of path, length and beginning; `None`: it cannot be read a second time.
    pub identity: Option<String>,
}

/// What the name of a report ends with.
pub const REPORT: &str = ".rejected.jsonl";

impl Source {
    /// # Errors
    /// When there is no such file, it is a directory, or it may not be read.
    pub fn find(path: &Path) -> io::Result<Source> {
        let of_stream = Source { path: path.to_owned(), canonical: None, length: 0, identity: None };
        if of_stream.is_stdin() {
            return Ok(of_stream);
        }
        let metadata = std::fs::metadata(path)?;
        if metadata.is_dir() {
            return Err(io::Error::other("it is a directory; name the files in it"));
        }
        if !metadata.is_file() {
            return Ok(of_stream); // A pipe: opening it twice would lose what is in it.
        }
        let mut beginning = Vec::new();
        File::open(path)?.take(BEGINNING).read_to_end(&mut beginning)?;
        let mut hash = blake3::Hasher::new();
        let canonical = path.canonicalize()?;
        hash.update(canonical.as_os_str().as_encoded_bytes());
        hash.update(&metadata.len().to_be_bytes()).update(&beginning);
        let identity = hash.finalize().to_hex()[..16].to_owned();
        Ok(Source { canonical: Some(canonical), length: metadata.len(), identity: Some(identity), ..of_stream })
    }

    pub fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// As the user named it.
    pub fn shown(&self) -> String {
        if self.is_stdin() { "standard input".to_owned() } else { self.path.display().to_string() }
    }

    /// As a report names it: however the user names it, and from whichever directory.
    pub fn file(&self) -> String {
        self.canonical.as_ref().map_or_else(|| self.shown(), |path| path.display().to_string())
    }

    /// Without its directories.
    pub fn name(&self) -> String {
        let name = self.path.file_name().filter(|_| !self.is_stdin());
        name.map_or_else(|| "stdin".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// Where its bad lines are reported, unless the user says.
    pub fn report(&self) -> PathBuf {
        // There is nothing to be made beside /dev/fd/63.
        let is_device = self.path.starts_with("/dev");
        let base = if self.is_stdin() || is_device { Path::new("stdin") } else { &self.path };
        let mut name = base.as_os_str().to_owned();
        name.push(REPORT);
        name.into()
    }

    pub fn is(&self, path: &Path) -> bool {
        self.canonical.is_some() && path.canonicalize().ok() == self.canonical
    }

    /// Whether it can be read once only.
    pub fn is_stream(&self) -> bool {
        self.identity.is_none()
    }

    /// `passed` counts the bytes read, as they are in the file.
    ///
    /// # Errors
    /// When it cannot be read, and when it is told to stop before a stream says anything.
    pub fn open(&self, passed: Arc<AtomicU64>, stopped: &Stopped) -> io::Result<Lines> {
        let raw: Box<dyn Read> = match self.is_stream() {
            true => Box::new(Stream::open((!self.is_stdin()).then(|| self.path.clone()), stopped.clone())?),
            // What is written into it from now on is another file's: it is known by its length.
            false => Box::new(File::open(&self.path)?.take(self.length)),
        };
        let left = (!self.is_stream()).then_some(self.length);
        let mut counted = Counted { raw, passed, left };
        let mut magic = Vec::new();
        counted.by_ref().take(ZSTD.len() as u64).read_to_end(&mut magic)?;
        let (gzip, zstd) = (magic.starts_with(GZIP), is_zstd(&magic));
        let whole = BufReader::with_capacity(128 << 10, Cursor::new(magic).chain(counted));
        Ok(Lines {
            reader: match (gzip, zstd) {
                (true, _) => Box::new(BufReader::new(Gzip { member: Some(GzDecoder::new(whole)) })),
                (_, true) => Box::new(BufReader::new(zstd::stream::read::Decoder::with_buffer(whole)?)),
                _ => Box::new(whole),
            },
            longest: LONGEST,
            stopped: stopped.clone(),
        })
    }
}

fn is_zstd(magic: &[u8]) -> bool {
    magic.starts_with(ZSTD) || matches!(magic, [0x50..=0x5f, rest @ ..] if rest.starts_with(ZSTD_SKIPPED))
}

struct Counted {
    raw: Box<dyn Read>,
    passed: Arc<AtomicU64>,
    /// Of a file's length.
    left: Option<u64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.raw.read(buffer)?;
        let left = self.left.map(|left| left.saturating_sub(read as u64));
        if read == 0 && !buffer.is_empty() && left.is_some_and(|left| left > 0) {
            return Err(io::Error::other("the file is shorter than it was when the backfill began"));
        }
        self.left = left;
        self.passed.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

type Whole = BufReader<Chain<Cursor<Vec<u8>>, Counted>>;

/// A file of one member or several, read to the end as GNU gzip does: zeros behind the last one (a tape's, a block device's)
/// are nothing.
struct Gzip {
    /// `None`: at the end.
    member: Option<GzDecoder<Whole>>,
}

impl Read for Gzip {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            if skip_zeros(member.get_mut())? {
                break;
            }
            self.member = self.member.take().map(|member| GzDecoder::new(member.into_inner()));
        }
        self.member = None;
        Ok(0)
    }
}

/// Says whether there is nothing behind them.
fn skip_zeros(reader: &mut impl BufRead) -> io::Result<bool> {
    loop {
        let available = reader.fill_buf()?;
        if available.is_empty() {
            return Ok(true);
        }
        let zeros = available.iter().take_while(|byte| **byte == 0).count();
        let all = zeros == available.len();
        reader.consume(zeros);
        if !all {
            return Ok(false);
        }
    }
}

pub struct Lines {
    reader: Box<dyn BufRead>,
    longest: usize,
    stopped: Stopped,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    Whole,
    /// Longer than can be held; it has been passed over.
    TooLong,
    End,
}

impl Lines {
    /// Reads the next line, without its end, into `line`.
    ///
    /// # Errors
    /// When the file cannot be read on: a compressed one may be cut short. And when it is told to stop while a stream is silent,
    /// or in the middle of a line that has no end.
    pub fn next(&mut self, line: &mut Vec<u8>) -> io::Result<Line> {
        line.clear();
        let (mut any, mut too_long) = (false, false);
        loop {
            if too_long && self.stopped.is_so() {
                return Err(io::Error::other("told to stop"));
            }
            let available = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                available => available?,
            };
            let end = memchr(b'\n', available);
            let taken = &available[..end.unwrap_or(available.len())];
            any |= !available.is_empty();
            too_long |= line.len() + taken.len() > self.longest;
            if !too_long {
                line.extend_from_slice(taken);
            }
            let (at_end, consumed) = (available.is_empty(), taken.len() + usize::from(end.is_some()));
            self.reader.consume(consumed);
            if at_end || end.is_some() {
                return Ok(match (any, too_long) {
                    (false, _) => Line::End,
                    (_, true) => Line::TooLong,
                    _ => Line::Whole,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(bytes: &[u8]) -> Vec<String> {
        let reader = Box::new(BufReader::with_capacity(3, Cursor::new(bytes.to_vec())));
        let mut lines = Lines { reader, longest: 20, stopped: Stopped::default() };
        let (mut line, mut found) = (Vec::new(), Vec::new());
        loop {
            match lines.next(&mut line).expect("read") {
                Line::Whole => found.push(String::from_utf8(line.clone()).expect("text")),
                Line::TooLong => found.push("(too long)".into()),
                Line::End => return found,
            }
        }
    }

    #[test]
    fn a_last_line_needs_no_end_and_an_empty_one_is_a_line() {
        assert_eq!(lines_of(b"one\n\nthree, and the last"), ["one", "", "three, and the last"]);
        assert_eq!(lines_of(b"one\n"), ["one"]);
        assert_eq!(lines_of(b""), Vec::<String>::new());
    }

    #[test]
    fn a_line_too_long_is_passed_over_whole() {
        assert_eq!(lines_of(b"one\ntwo, which is longer than it may be\nthree"), ["one", "(too long)", "three"]);
        assert_eq!(lines_of(b"one, which is longer than it may be"), ["(too long)"]);
    }

    #[test]
    fn a_line_without_an_end_ends_when_it_is_told_to_stop() {
        let mut lines =
            Lines { reader: Box::new(BufReader::new(io::repeat(b'x'))), longest: 20, stopped: Stopped::already() };
        assert!(lines.next(&mut Vec::new()).expect_err("endless").to_string().contains("told to stop"));
    }

    #[test]
    fn a_file_that_grows_ends_where_it_ended_when_it_was_found() {
        let path = std::env::temp_dir().join(format!("nat-destination-growing-{}", std::process::id()));
        std::fs::write(&path, "one\ntwo\n").expect("written");
        let source = Source::find(&path).expect("it is there");
        std::fs::write(&path, "one\ntwo\nthree\n").expect("written");
        let passed = Arc::new(AtomicU64::new(0));
        let mut lines = source.open(Arc::clone(&passed), &Stopped::default()).expect("opened");
        let mut line = Vec::new();
        let count =
            std::iter::from_fn(|| Some(lines.next(&mut line).expect("read"))).take_while(|line| *line != Line::End);
        assert_eq!((count.count() as u64, passed.load(Ordering::Relaxed)), (2, source.length));
        std::fs::remove_file(path).expect("removed");
    }

    /// What is read of a file with these bytes.
    fn read(name: &str, bytes: &[u8], meanwhile: impl FnOnce(&Path)) -> io::Result<u64> {
        let path = std::env::temp_dir().join(format!("nat-destination-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("written");
        let source = Source::find(&path).expect("it is there");
        meanwhile(&path);
        let mut lines = source.open(Arc::default(), &Stopped::default()).expect("opened");
        let (mut line, mut count) = (Vec::new(), 0);
        let read = loop {
            match lines.next(&mut line) {
                Ok(Line::End) => break Ok(count),
                Ok(_) => count += 1,
                Err(error) => break Err(error),
            }
        };
        std::fs::remove_file(path).expect("removed");
        read
    }

    #[test]
    fn a_file_that_shrinks_is_not_taken_for_whole() {
        let read = read("shrinking", b"one\ntwo\nthree\n", |path| std::fs::write(path, "one\n").expect("written"));
        assert!(read.expect_err("it is cut").to_string().contains("shorter than it was"));
    }

    #[test]
    fn gzip_is_read_to_the_end_whatever_its_members_and_the_zeros_behind_them() {
        let member = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            io::Write::write_all(&mut encoder, text.as_bytes()).expect("packed");
            encoder.finish().expect("packed")
        };
        let (one, zeros) = (member("one\ntwo\n"), vec![0; 200_000]);
        let all = [&one[..], &member(""), &member("three\n")].concat();
        assert_eq!(read("members", &all, |_| ()).expect("read"), 3);
        assert_eq!(read("padded", &[&all[..], &zeros].concat(), |_| ()).expect("read"), 3);
        assert!(read("followed", &[&all[..], &zeros, b"x"].concat(), |_| ()).is_err());
        assert!(read("cut", &all[..all.len() - 3], |_| ()).is_err());
    }
}
