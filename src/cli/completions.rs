//! `completions`: tab completion for the shell.

use std::process::ExitCode;

use clap::builder::PossibleValue;
use clap::{Args, Command, CommandFactory};
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
    if args.shell == Shell::Fish {
        print!("{}", words_for_fish(&Cli::command()));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a word can be that is no flag: clap_complete (4.6) does not tell fish, which would list files.
fn words_for_fish(root: &Command) -> String {
    let words = root.get_subcommands().flat_map(|command| {
        command.get_positionals().filter_map(|argument| {
            let values = argument.get_possible_values();
            let values: Vec<&str> = values.iter().map(PossibleValue::get_name).collect();
            let (name, values) = (command.get_name(), values.join(" "));
            (!values.is_empty()).then(|| {
                format!(
                    "complete -c nat-destination -n \"__fish_nat_destination_using_subcommand {name}\" -f -a \"{values}\"\n"
                )
            })
        })
    });
    words.collect()
}
