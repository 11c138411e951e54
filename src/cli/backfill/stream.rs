//! What is read once only, standard input or a pipe, and may be silent for as long as it likes: read on a thread of its own, so
//! that whoever is told to stop does not wait for it. Nobody ends that thread; it goes with the process.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::cli::Stopped;

const CHUNK: usize = 64 << 10;
/// How often it is looked whether to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub struct Stream {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: io::Cursor<Vec<u8>>,
    stopped: Stopped,
}

impl Stream {
    /// `None`: standard input. Opening a pipe waits too, for somebody to write into it.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn open(path: Option<PathBuf>, stopped: Stopped) -> io::Result<Stream> {
        let (sender, chunks) = sync_channel(2);
        let read = move || {
            let opened: io::Result<Box<dyn Read>> = match path {
                None => Ok(Box::new(io::stdin())),
                Some(path) => File::open(path).map(|file| Box::new(file) as Box<dyn Read>),
            };
            // An error says that nobody listens any more.
            let _ = match opened {
                Ok(raw) => hand_over(raw, &sender),
                Err(error) => sender.send(Err(error)).map_err(drop),
            };
        };
        thread::Builder::new().name("stream".into()).spawn(read)?;
        Ok(Stream { chunks, chunk: io::Cursor::default(), stopped })
    }
}

fn hand_over(mut raw: Box<dyn Read>, to: &SyncSender<io::Result<Vec<u8>>>) -> Result<(), ()> {
    loop {
        let mut chunk = vec![0; CHUNK];
        match raw.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                chunk.truncate(length);
                to.send(Ok(chunk)).map_err(drop)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return to.send(Err(error)).map_err(drop),
        }
    }
}

impl Read for Stream {
    /// Once it is told to stop, there is an error in place of more.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            match self.chunks.recv_timeout(LOOK_EVERY) {
                Ok(chunk) => self.chunk = io::Cursor::new(chunk?),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) if self.stopped.is_so() => return Err(io::Error::other("told to stop")),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
