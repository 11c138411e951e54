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
    // clap_complete (4.6) calls the program otherwise where bash is to look up what can follow a command, since its name has a
    // hyphen: below the first word nothing would be found.
    print!("{}", String::from_utf8_lossy(&completions).replace("nat__subcmd__destination", "nat__destination"));
    Ok(ExitCode::SUCCESS)
}
