//! Arguments to command, result to exit code: 0 done, 1 a problem, 2 wrong usage.

use std::process::ExitCode;

fn main() -> ExitCode {
    nat_destination::cli::main()
}
