//! A TCP proxy on loopback with a trap: when certain bytes are about to pass, nothing passes any more in either direction, on
//! any connection, until the proxy is opened again. Meanwhile the server behind it can be killed, knowing what it has read.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// Where nothing passes any more.
#[derive(Clone, Debug)]
pub enum Trap {
    /// In front of these bytes.
    Before(Direction, Vec<u8>),
    /// In front of what the server answers to these bytes.
    Answer(Vec<u8>),
}

/// Ends with the value; connections that are there are closed then.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: u16,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    trap: Option<Trap>,
    is_sprung: bool,
    is_closed: bool,
    /// Both ends of each connection.
    connections: Vec<[TcpStream; 2]>,
    /// The connection whose answer is waited for, by its place among them.
    asked: Option<usize>,
}

impl Proxy {
    /// # Panics
    /// When there is no loopback port to listen on.
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("binding a loopback port");
        let port = listener.local_addr().expect("the bound address").port();
        let shared = Arc::new(Shared { server, state: Mutex::default() });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if accepting.state().is_closed {
                    return;
                }
                accepting.connect(client);
            }
        });
        Self { port, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn set(&self, trap: Trap) {
        self.shared.state().trap = Some(trap);
    }

    /// Whether the trap has been sprung, and the server has read all that passed.
    pub fn is_sprung(&self) -> bool {
        self.shared.state().is_sprung && unread(self.shared.server) == 0
    }

    /// Closes the connections that are held, and lets new ones through.
    pub fn open(&self) {
        let mut state = self.shared.state();
        (state.trap, state.is_sprung, state.asked) = (None, false, None);
        for end in state.connections.drain(..).flatten() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.state().is_closed = true;
        self.open();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that can't be brought to the server is turned away.
    fn connect(self: &Arc<Self>, client: TcpStream) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.server)) else { return };
        let mut state = self.state();
        let place = state.connections.len();
        for (from, to, direction) in [(&client, &server, Direction::ToServer), (&server, &client, Direction::ToClient)]
        {
            let _ = from.set_nodelay(true);
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            let shared = self.clone();
            thread::spawn(move || shared.pump(from, to, direction, place));
        }
        state.connections.push([client, server]);
    }

    /// Passes on what comes until an end is closed. What is held stays unread or is dropped: its connection has no future.
    fn pump(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction, place: usize) {
        let mut buffer = vec![0; 64 << 10];
        let mut passed = Vec::new();
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let pass = self.state().pass(direction, place, &passed, &buffer[..count]);
            if to.write_all(&buffer[..pass]).is_err() || pass < count {
                return;
            }
            passed = [&passed[passed.len().saturating_sub(OVERLAP)..], &buffer[..count]].concat();
        }
        if !self.state().is_sprung {
            let _ = to.shutdown(Shutdown::Both);
        }
    }
}

/// What is looked for may come in two pieces.
const OVERLAP: usize = 100;

impl State {
    /// How many of the bytes that came may pass.
    fn pass(&mut self, direction: Direction, place: usize, passed: &[u8], came: &[u8]) -> usize {
        if self.is_sprung {
            return 0;
        }
        let before = &passed[passed.len().saturating_sub(OVERLAP)..];
        let find = |needle: &[u8]| {
            let seen = [before, came].concat();
            let places = seen.windows(needle.len()).enumerate().filter(|(_, window)| *window == needle);
            // What has passed as a whole was seen before.
            places
                .map(|(at, _)| at)
                .find(|at| at + needle.len() > before.len())
                .map(|at| at.saturating_sub(before.len()))
        };
        let cut = match &self.trap {
            Some(Trap::Before(way, needle)) if *way == direction => find(needle),
            Some(Trap::Answer(needle)) if direction == Direction::ToServer => {
                if find(needle).is_some() {
                    self.asked = Some(place);
                }
                None
            }
            Some(Trap::Answer(_)) if self.asked == Some(place) => Some(0),
            _ => None,
        };
        self.is_sprung = cut.is_some();
        cut.unwrap_or(came.len())
    }
}

/// Bytes on their way to a server on loopback that it has not read.
fn unread(server: u16) -> u64 {
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let queued = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, queues, ..] = fields[..] else { return None };
        let (sending, received) = queues.split_once(':')?;
        let queue = match (port(local), port(remote)) {
            // Of one that listens the queue is one of connections.
            (Some(local), _) if local == server && state != "0A" => received,
            (_, Some(remote)) if remote == server => sending,
            _ => return None,
        };
        u64::from_str_radix(queue, 16).ok()
    };
    table.lines().filter_map(queued).sum()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Answers each line with itself.
    fn echo() -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for mut client in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || {
                    let mut buffer = [0; 100];
                    while let Ok(count @ 1..) = client.read(&mut buffer) {
                        client.write_all(&buffer[..count]).unwrap();
                    }
                });
            }
        });
        port
    }

    fn wait_until_sprung(proxy: &Proxy) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !proxy.is_sprung() {
            assert!(Instant::now() < deadline, "the trap is not sprung");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn exchange(client: &mut TcpStream, text: &str) -> String {
        client.write_all(text.as_bytes()).unwrap();
        let mut answer = vec![0; text.len()];
        client.read_exact(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[test]
    fn what_is_looked_for_does_not_pass_and_what_is_before_it_does() {
        let proxy = Proxy::start(echo());
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert_eq!(exchange(&mut client, "hello"), "hello");
        proxy.set(Trap::Before(Direction::ToClient, b"stop".to_vec()));
        client.write_all(b"go stop go").unwrap();
        wait_until_sprung(&proxy);
        proxy.open();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "go ");
        let mut next = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        assert_eq!(exchange(&mut next, "stop"), "stop");
    }

    #[test]
    fn an_answer_is_held_and_the_question_is_not() {
        let proxy = Proxy::start(echo());
        let mut client = TcpStream::connect(("127.0.0.1", proxy.port())).unwrap();
        proxy.set(Trap::Answer(b"stop".to_vec()));
        assert_eq!(exchange(&mut client, "hello"), "hello");
        client.write_all(b"st").unwrap();
        assert_eq!(exchange(&mut client, ""), "");
        client.write_all(b"op").unwrap();
        wait_until_sprung(&proxy);
        proxy.open();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap();
        assert!([&b""[..], b"st"].contains(&&rest[..]), "{rest:?}");
    }
}
