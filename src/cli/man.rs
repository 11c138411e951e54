//! `man`: the manual pages, made of the same words as `--help`.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::{Cli, CommandError};
use crate::config::resolve::nearest;

/// Print the manual page of this program or of a command
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    nat-destination man | man -l -\n  \
    nat-destination man topics create | man -l -\n  \
    nat-destination man --dir /usr/local/share/man/man1    (all pages, for: man nat-destination-replay)")]
pub struct ManArgs {
    /// The command, such as: topics create
    command: Vec<String>,
    /// Write the pages of all commands into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
}

pub fn run(args: &ManArgs) -> Result<ExitCode, CommandError> {
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    match &args.dir {
        Some(dir) => {
            for (name, page) in pages(&root, &root).map_err(CommandError::told)? {
                let path = dir.join(name);
                std::fs::write(&path, page)
                    .map_err(|error| CommandError::Told(format!("{}: {error}", path.display())))?;
            }
        }
        None => {
            let pages = pages(&root, &root).map_err(CommandError::told)?;
            // As it is typed, or as the page is called.
            let wanted = args.command.join("-");
            let wanted = command_of(&wanted);
            let found = pages.iter().find(|(name, _)| command_of(name) == wanted);
            let (_, page) = found.ok_or_else(|| unknown(wanted, &pages))?;
            print!("{}", String::from_utf8_lossy(page));
        }
    }
    Ok(ExitCode::SUCCESS)
}

type Page = (String, Vec<u8>);

/// `nat-destination-topics-create.1` → `topics-create`; nothing for the program's own.
fn command_of(page: &str) -> &str {
    page.trim_start_matches("nat-destination").trim_start_matches('-').trim_end_matches(".1")
}

fn unknown(wanted: &str, pages: &[Page]) -> CommandError {
    let commands = pages.iter().map(|(name, _)| command_of(name));
    CommandError::Usage(format!("there is no command {wanted:?}{}", nearest(wanted, commands)))
}

/// Of the command and of all below it.
fn pages(root: &Command, command: &Command) -> io::Result<Vec<Page>> {
    let mut made = vec![page(root, command)?];
    for below in command.get_subcommands() {
        made.extend(pages(root, below)?);
    }
    Ok(made)
}

/// File name and text.
fn page(root: &Command, command: &Command) -> io::Result<Page> {
    // Without a date, what follows would be taken for one.
    let man = Man::new(command.clone()).date(" ").source(concat!("nat-destination ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut page)?;
    }
    render_after_help(root, command, &mut page)?;
    Ok((man.get_filename(), page))
}

/// The paragraphs behind the options: each that begins with a heading is a section, with its lines as they are; the others
/// are notes. A command that says nothing of its exit codes has those of the first page.
fn render_after_help(root: &Command, command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    let after_help = |command: &Command| command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let own = after_help(command);
    let own = own.split("\n\n").filter(|paragraph| !paragraph.is_empty() && exit_codes(paragraph).is_none());
    let (lists, notes): (Vec<&str>, Vec<&str>) = own.partition(|paragraph| paragraph.contains(":\n"));
    let mut roff = Roff::default();
    for (heading, lines) in lists.iter().filter_map(|list| list.split_once(":\n")) {
        as_it_is(&mut roff, &heading.to_uppercase(), lines);
    }
    if !notes.is_empty() {
        roff.control("SH", ["NOTES"]);
    }
    for note in notes {
        roff.control("PP", []).text([roman(note)]);
    }
    let codes = |command| after_help(command).split("\n\n").find_map(exit_codes).map(str::to_owned);
    if let Some(codes) = codes(command).or_else(|| codes(root)) {
        roff.control("SH", ["EXIT STATUS"]).text([roman(codes)]);
    }
    roff.to_writer(page)
}

fn exit_codes(paragraph: &str) -> Option<&str> {
    paragraph.strip_prefix("Exit codes: ")
}

fn as_it_is(roff: &mut Roff, heading: &str, lines: &str) {
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    roff.control("fi", []);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(command: &Command, look: &mut impl FnMut(&Command)) {
        look(command);
        command.get_subcommands().for_each(|below| each(below, look));
    }

    #[test]
    fn a_note_behind_the_options_has_no_line_breaks_of_its_own_since_clap_wraps_it() {
        each(&Cli::command(), &mut |command| {
            let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for note in text.split("\n\n").filter(|paragraph| !paragraph.contains(":\n")) {
                assert!(!note.contains('\n'), "{}: {note}", command.get_name());
            }
        });
    }
}
