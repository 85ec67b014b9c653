//! `mkimage NAME:TAG OUT.tar [--busybox] [--add HOST:PATH]… [--env K=V]… [--expose PORT]… [--cmd ARG…]`: a docker-archive of
//! files of this machine.

use keles_testkit::image::Image;
use std::path::Path;
use std::process::ExitCode;

const USAGE: &str = "usage: mkimage NAME:TAG OUT.tar [--busybox] [--add HOST:PATH]... [--env K=V]... [--expose PORT]... [--user USER] [--cmd ARG...]";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args.iter().map(String::as_str).collect::<Vec<_>>()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("mkimage: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[&str]) -> Result<(), String> {
    let [name, out, rest @ ..] = args else { return Err(USAGE.into()) };
    let mut rest = rest;
    let io = |e: std::io::Error| e.to_string();
    let mut image = if rest.contains(&"--busybox") { Image::new().busybox().map_err(io)? } else { Image::new().base().map_err(io)? };
    while let Some((flag, more)) = rest.split_first() {
        rest = more;
        match (*flag, more.first()) {
            ("--busybox", _) => continue,
            ("--cmd", _) => {
                image = image.command(more);
                break;
            }
            ("--add", Some(pair)) => {
                let (host, path) = pair.split_once(':').ok_or("--add wants HOST:PATH")?;
                image = image.add_file(Path::new(host), path).map_err(|e| format!("{host}: {e}"))?;
            }
            ("--env", Some(pair)) => image = image.env(pair),
            ("--user", Some(user)) => image = image.user(user),
            ("--expose", Some(port)) => image = image.expose(port.parse().map_err(|_| format!("{port} is not a port"))?),
            _ => return Err(USAGE.into()),
        }
        rest = &more[1..];
    }
    image.write(name, Path::new(out)).map_err(|e| format!("{out}: {e}"))
}
