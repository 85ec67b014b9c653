//! Developer tasks: `cargo xtask codegen` writes the schema table of `api`, `cargo xtask schema-diff DIR` says where the table and a
//! folder of OpenAPI v3 documents differ, as lines for the overlay.
//!
//! Deliberately absent: anything that a build or a test needs; the generated table is committed.

mod codegen;
mod model;
mod openapi_source;
mod overlay;
mod pb_source;
mod reference;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["codegen"] => codegen::run(),
        ["schema-diff", dir] => codegen::diff(dir),
        _ => Err("usage: cargo xtask codegen | schema-diff DIR".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
