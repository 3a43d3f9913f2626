//! A real PostgreSQL on a loopback port of its own.
//!
//! A shell stands between the tests and the server. It waits for its standard input to end, which happens however the
//! tests end, then stops the server that it started and removes its files. So a server can be shared by all tests of a program.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};

use crate::nats::free_port;

/// Starts the server `$1` in the folder `$2` on port `$3`, and tells its process id. A line on its standard input sets it free.
/// It speaks TLS when it has a certificate.
const KEEPER: &str = r#"
if [ -e "$2/server.crt" ]; then set -- "$1" "$2" "$3" -c ssl=on -c "ssl_cert_file=$2/server.crt" -c "ssl_key_file=$2/server.key"; fi
program=$1 folder=$2 port=$3
shift 3
"$program" -D "$folder/data" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c max_connections=200 \
     -c shared_buffers=32MB -c fsync=on -c log_min_messages=fatal "$@" </dev/null >>"$folder/log" 2>&1 &
server=$!
echo "$server"
if read -r _; then exit; fi
kill -INT "$server" 2>/dev/null
wait "$server"
rm -r "$folder"
"#;

/// A server, until the value is dropped or the process ends.
#[derive(Debug)]
pub struct Server {
    dir: PathBuf,
    port: u16,
    keeper: Child,
    /// Process id of the server, as `kill` reads it.
    pid: String,
}

/// The server that all tests of a program share.
///
/// # Panics
/// When PostgreSQL is not installed or does not start.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(start)
}

/// Starts a server of one's own, and returns once it answers.
///
/// # Panics
/// When PostgreSQL is not installed or does not start.
pub fn start() -> Server {
    start_with(|_| {})
}

/// Starts one that proves to be `127.0.0.1` by a certificate of its own, which is answered too.
///
/// # Panics
/// When PostgreSQL is not installed or does not start.
pub fn start_with_certificate() -> (Server, String) {
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = own.cert.pem();
    let server = start_with(|dir| {
        for (name, text) in [("server.crt", &certificate), ("server.key", &own.signing_key.serialize_pem())] {
            let file = dir.join(name);
            fs::write(&file, text).expect("writing to the server's folder");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("for the server alone");
            if let Some((uid, gid)) = unprivileged() {
                std::os::unix::fs::chown(&file, Some(uid), Some(gid)).expect("giving the file to the server's user");
            }
        }
    });
    (server, certificate)
}

fn start_with(prepare: impl FnOnce(&Path)) -> Server {
    let dir = tempfile::Builder::new().prefix("rhizon-postgres-").tempdir().expect("a temporary directory").keep();
    if let Some((uid, gid)) = unprivileged() {
        std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).expect("giving the folder to the server's user");
    }
    let arguments = ["-U", "rhizon", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"];
    let made = as_server_user(&program("initdb")).args(arguments).arg(dir.join("data")).output().expect("initdb runs");
    assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
    prepare(&dir);
    let port = free_port();
    let (keeper, pid) = spawn(&dir, port);
    let server = Server { dir, port, keeper, pid };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !server.is_ready() {
        assert!(Instant::now() < deadline, "postgres does not start: {}", server.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    server
}

impl Server {
    pub fn url(&self) -> String {
        format!("postgres://rhizon@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server with SIGKILL, as a crash would, and starts it again on the same files and port.
    pub fn crash(&mut self) {
        assert!(signal("KILL", &self.pid), "killing postgres");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.starts_again() {
            assert!(Instant::now() < deadline, "postgres does not start again: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What was forked from the old server goes on for a moment and keeps the files: a new one then ends at once.
    fn starts_again(&mut self) -> bool {
        self.keeper.stdin.take().expect("a shell that is not free").write_all(b"free\n").expect("setting it free");
        self.keeper.wait().expect("waiting for the server's shell");
        let logged = self.log().len();
        (self.keeper, self.pid) = spawn(&self.dir, self.port);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.is_ready() && Instant::now() < deadline {
            let log = self.log();
            if ["shared memory block", "lock file"].iter().any(|words| log[logged..].contains(words)) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_ready()
    }

    fn is_ready(&self) -> bool {
        let state = fs::read_to_string(self.dir.join("data/postmaster.pid")).unwrap_or_default();
        state.lines().next() == Some(&self.pid) && state.lines().any(|line| line.trim() == "ready")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn spawn(dir: &Path, port: u16) -> (Child, String) {
    let mut keeper = as_server_user(Path::new("/bin/sh"))
        .args(["-c", KEEPER, "keeper"])
        .arg(program("postgres"))
        .arg(dir)
        .arg(port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell starts");
    let mut pid = String::new();
    let output = keeper.stdout.take().expect("the shell's output");
    BufReader::new(output).read_line(&mut pid).expect("the server's process id");
    (keeper, pid.trim().to_owned())
}

fn signal(name: &str, pid: &str) -> bool {
    let kill = Command::new("kill").args([&format!("-{name}"), pid]).stderr(Stdio::null()).status();
    kill.is_ok_and(|status| status.success())
}

/// On the PATH, or where Debian puts it.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    std::env::split_paths(&path)
        .chain(versions.map(|version| version.path().join("bin")))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("'{name}' is missing: install PostgreSQL (Debian: apt-get install postgresql)"))
}

fn as_server_user(program: &Path) -> Command {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = unprivileged() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/");
    command
}

/// PostgreSQL does not run as root: its own user, or the one without rights, when the tests do.
fn unprivileged() -> Option<(u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let ids = |user: &str| {
        let mut fields = users.lines().find(|line| line.starts_with(&format!("{user}:")))?.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    is_root.then(|| ids("postgres").or_else(|| ids("nobody")))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_survives_a_crash_and_leaves_nothing() {
        let mut server = start();
        let dir = server.dir.clone();
        server.crash();
        assert!(std::net::TcpStream::connect(("127.0.0.1", server.port)).is_ok());
        drop(server);
        assert!(!dir.exists());
    }
}
