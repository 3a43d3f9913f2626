//! What a seed did, as one number that two runs can compare, and as lines for who looks for the reason.

/// FNV-1a over everything that happened, in its order.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    print: bool,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, print }
    }

    pub(crate) fn note(&mut self, now_us: u64, what: &str, a: u64, b: u64) {
        let numbers = [now_us, a, b].map(u64::to_le_bytes);
        for byte in what.bytes().chain(numbers.into_iter().flatten()) {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.print && what != "poll" {
            eprintln!("{:>12.6}s  {what} {a} {b}", std::time::Duration::from_micros(now_us).as_secs_f64());
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}
