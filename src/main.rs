//! Arguments to command, result to exit code: 0 done, 1 a problem, 2 wrong usage.

use std::process::ExitCode;

/// Memory is taken on one thread and given back on another all the time, which glibc's own allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    nat_destination::cli::main()
}
