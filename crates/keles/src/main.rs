//! main: argv to role to services.

fn main() {}
