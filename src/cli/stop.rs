//! Ctrl-C and SIGTERM. The first one tells a command to stop, which then says what was done and how to go on; a second one ends
//! the process at once.

use std::io::IsTerminal;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::{CommandError, progress};

/// The exit code of a command that Ctrl-C or SIGTERM has stopped: what was done is told, and how to go on.
pub const STOPPED: u8 = 130;

/// Returns at the first SIGTERM or Ctrl-C; a second one ends the process at once.
pub async fn told_to_stop() -> Result<(), CommandError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CommandError::told)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CommandError::told)?;
    tokio::select! {
        _ = terminate.recv() => {}
        // The terminal shows ^C where the cursor stands: what is told from now on begins a line of its own.
        _ = interrupt.recv() => if std::io::stderr().is_terminal() && !progress::is_shown() { eprintln!() },
    }
    tokio::spawn(async move {
        let code = tokio::select! { _ = terminate.recv() => 143, _ = interrupt.recv() => 130 };
        tracing::warn!("second signal: ending at once; what was not settled will be read again");
        std::process::exit(code);
    });
    Ok(())
}

/// Whether the command has been told to stop. The default never is.
#[derive(Debug, Clone)]
pub struct Stopped(watch::Receiver<bool>);

impl Default for Stopped {
    fn default() -> Stopped {
        Stopped(watch::channel(false).1)
    }
}

impl Stopped {
    /// Listens from now on, to the end of the process: nobody else would hear the second signal.
    pub fn listen() -> Stopped {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            told_to_stop().await?;
            sender.send_replace(true);
            Ok::<(), CommandError>(())
        });
        Stopped(receiver)
    }

    #[cfg(test)]
    pub fn already() -> Stopped {
        Stopped(watch::channel(true).1)
    }

    pub fn is_so(&self) -> bool {
        *self.0.borrow()
    }

    /// # Errors
    /// When told to stop before that was done.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, CommandError> {
        let mut stopped = self.0.clone();
        tokio::select! {
            biased;
            // An error says that nobody will ever tell it to.
            Ok(_) = stopped.wait_for(|is_so| *is_so) => Err(CommandError::Stopped),
            done = work => Ok(done),
        }
    }

    /// What a command asks before it does anything: brokers that are away may take their time.
    ///
    /// # Errors
    /// What the answer says; or when told to stop.
    pub async fn asking<T, E>(&self, question: impl Future<Output = Result<T, E>>) -> Result<T, CommandError>
    where
        CommandError: From<E>,
    {
        Ok(self.unless(question).await??)
    }

    /// The same from within `working`: blocking.
    ///
    /// # Errors
    /// What the answer says; or when told to stop.
    pub fn ask<T, E>(&self, question: impl Future<Output = Result<T, E>>) -> Result<T, CommandError>
    where
        CommandError: From<E>,
    {
        Handle::current().block_on(self.asking(question))
    }

    /// Runs long work on a thread that may block, and that looks whether it is to stop.
    pub async fn working<T: Send + 'static>(
        self,
        work: impl FnOnce(&Stopped) -> Result<T, CommandError> + Send + 'static,
    ) -> Result<T, CommandError> {
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        done.unwrap_or_else(|error| Err(CommandError::Told(format!("the work was cut short: {error}"))))
    }
}
