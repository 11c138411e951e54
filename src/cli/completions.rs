//! `completions`: tab completion for the shell.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, CommandError};

/// Print the completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  nat-destination completions bash > /etc/bash_completion.d/nat-destination")]
pub struct CompletionsArgs {
    shell: Shell,
}

pub fn run(args: &CompletionsArgs) -> Result<ExitCode, CommandError> {
    let mut completions = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nat-destination", &mut completions);
    print!("{}", String::from_utf8_lossy(&completions));
    Ok(ExitCode::SUCCESS)
}
