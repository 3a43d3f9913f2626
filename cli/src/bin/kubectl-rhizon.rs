//! The same program, found by kubectl as `kubectl rhizon`.

fn main() -> std::process::ExitCode {
    rhizon::main()
}
