//! `rhizon`.

fn main() -> std::process::ExitCode {
    rhizon::main()
}
