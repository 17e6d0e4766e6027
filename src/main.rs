//! Process entry: the command line in, an exit code out.

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    fal_worker::cli::main(Instant::now())
}
