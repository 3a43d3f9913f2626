//! A real nats-server on a loopback port of its own, for as long as the value lives.

use std::{
    fmt::Write as _,
    fs::{self, File},
    net::{TcpListener, TcpStream},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Names the binary; `cargo xtask test` sets it.
pub const BINARY: &str = "RHIZON_NATS_SERVER";

/// Below those that the kernel gives to connections, and those of Kubernetes.
const PORTS: Range<u16> = 12_000..29_000;

/// What the server should be like. The default has no accounts and no TLS.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Operator mode: accounts come as JWTs, through the resolver that the server itself brings. The text is that of
    /// `rhizon_operator::nats::server::configuration`.
    pub operator: Option<String>,
    pub tls: Option<Tls>,
    /// How much JetStream may keep on disk; 8GB.
    pub disk: Option<&'static str>,
    /// Lines for the end of the configuration file.
    pub extra: String,
    /// One of several that are a cluster.
    pub member: Option<Member>,
}

/// A server's place in a cluster.
#[derive(Clone, Debug)]
pub struct Member {
    index: usize,
    /// Where the members listen for each other.
    ports: Vec<u16>,
}

/// Starts so many servers as a cluster. They find each other in their own time.
///
/// # Panics
/// As [`start`] does.
pub fn start_cluster(count: usize) -> Vec<Server> {
    let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
    let member = |index| Options { member: Some(Member { index, ports: ports.clone() }), ..Options::default() };
    (0..count).map(|index| start(&member(index))).collect()
}

/// PEM texts.
#[derive(Clone, Debug)]
pub struct Tls {
    pub certificate: String,
    pub key: String,
}

/// A running server. Dropping it ends the process and removes its files.
#[derive(Debug)]
pub struct Server {
    binary: PathBuf,
    dir: TempDir,
    port: u16,
    process: Option<Child>,
}

/// Starts a server, and returns once it takes connections.
///
/// # Panics
/// Without a binary in `RHIZON_NATS_SERVER`, or when the server does not start.
pub fn start(options: &Options) -> Server {
    let binary = std::env::var_os(BINARY)
        .unwrap_or_else(|| panic!("{BINARY} is not set: it names the nats-server binary that the tests start"))
        .into();
    let dir = tempfile::Builder::new().prefix("rhizon-nats-").tempdir().expect("a temporary directory");
    let port = free_port();
    fs::write(dir.path().join("nats.conf"), configuration(dir.path(), port, options)).expect("writing nats.conf");
    if let Some(tls) = &options.tls {
        fs::write(dir.path().join("tls.crt"), &tls.certificate).expect("writing tls.crt");
        fs::write(dir.path().join("tls.key"), &tls.key).expect("writing tls.key");
    }
    let mut server = Server { binary, dir, port, process: None };
    server.spawn();
    server
}

impl Server {
    /// Such as `nats://127.0.0.1:4222`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Of the process that runs.
    ///
    /// # Panics
    /// After [`kill`](Self::kill).
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("a server that runs").id()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends the process with SIGKILL, as a crash would. The files stay.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("killing nats-server");
            process.wait().expect("waiting for nats-server");
        }
    }

    /// Kills the process and starts it again with the same files and port.
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("nats.log")).unwrap_or_default()
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("nats.log"))
            .expect("opening the server's log");
        let process = Command::new(&self.binary)
            .arg("--config")
            .arg(self.dir.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", self.binary.display()));
        self.process = Some(process);
        self.wait_until_listening();
    }

    fn wait_until_listening(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(ended.is_none(), "nats-server ended: {}", self.log());
            assert!(Instant::now() < deadline, "nats-server does not listen after 20 s: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody has, and that no outgoing connection is given: until a server listens there, and while one is down,
/// nobody may come before it.
///
/// # Panics
/// When no port can be bound.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    // Processes begin at places of their own, and give each port once.
    let begin = std::process::id().wrapping_mul(997);
    let mut ports = std::iter::repeat_with(|| begin.wrapping_add(TAKEN.fetch_add(1, Ordering::Relaxed)))
        .take(PORTS.len())
        .map(|number| PORTS.start + u16::try_from(number as usize % PORTS.len()).expect("a range of ports"));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a loopback port that can be bound")
}

fn configuration(dir: &Path, port: u16, options: &Options) -> String {
    let (dir, disk) = (dir.display(), options.disk.unwrap_or("8GB"));
    let mut text = format!(
        "listen: 127.0.0.1:{port}\nserver_name: test\nmax_payload: 8MB\nmax_control_line: 128KB\n\
         jetstream {{ store_dir: \"{dir}/jetstream\", sync_interval: always, max_file_store: {disk}, max_memory_store: 64MB }}\n"
    );
    match &options.member {
        None => text.push_str("server_name: test\n"),
        Some(Member { index, ports }) => {
            let routes: Vec<String> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
            let (own, routes) = (ports[*index], routes.join(", "));
            let _ = writeln!(text, "server_name: test-{index}");
            let _ = writeln!(text, "cluster {{ name: test, listen: \"127.0.0.1:{own}\", routes: [{routes}] }}");
        }
    }
    if options.tls.is_some() {
        let _ = writeln!(text, "tls {{ cert_file: \"{dir}/tls.crt\", key_file: \"{dir}/tls.key\" }}");
    }
    if let Some(operator) = &options.operator {
        text.push_str(operator);
        let _ = writeln!(
            text,
            "resolver {{ type: full, dir: \"{dir}/accounts\", allow_delete: true, limit: 100000, interval: \"2m\" }}"
        );
    }
    text.push_str(&options.extra);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_starts_again_on_the_same_port() {
        let mut server = start(&Options::default());
        let url = server.url();
        server.restart();
        assert_eq!(server.url(), url);
        server.kill();
        assert!(TcpStream::connect(("127.0.0.1", server.port)).is_err());
    }
}
