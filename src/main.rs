//! The `iapeer` program: see `iapeer --help`.

fn main() -> std::process::ExitCode {
    iapeer::cli::main()
}
