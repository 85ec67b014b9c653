//! The shim alone, started as `keles-shim shim --sandbox FOLDER`, for the runtime's own tests; the `keles` binary calls the same function.

fn main() {
    keles_runtime::shim_main(std::env::args_os().skip(2))
}
