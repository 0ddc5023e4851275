//! The fuzz corpus as bytes, and a generator of what is not in it. Shared by the fuzzers of the town and of the runner.
//!
//! Everything here is a function of the files of `tests/fuzz` and of a seed: what was found once is found again.

#![allow(dead_code, reason = "each fuzzer uses a part")]

use serde_json::{Map, Value as Json};

/// `values.txt`: JSON texts, some of them none.
pub fn values() -> Vec<Vec<u8>> {
    lines(include_str!("corpus/values.txt"))
}
/// `bodies.txt`: whole bodies.
pub fn bodies() -> Vec<Vec<u8>> {
    lines(include_str!("corpus/bodies.txt"))
}
/// `segments.txt`: segments of a path.
pub fn segments() -> Vec<Vec<u8>> {
    lines(include_str!("corpus/segments.txt"))
}
/// `queries.txt`: what stands after the `?`.
pub fn queries() -> Vec<Vec<u8>> {
    lines(include_str!("corpus/queries.txt"))
}
/// `headers.txt`: name and value of header lines.
pub fn headers() -> Vec<(String, Vec<u8>)> {
    let split = |line: Vec<u8>| {
        let colon = line.iter().position(|b| *b == b':').expect("a header has a colon");
        (String::from_utf8(line[..colon].to_vec()).expect("a name is ASCII"), line[colon + 1..].trim_ascii().to_vec())
    };
    lines(include_str!("corpus/headers.txt")).into_iter().map(split).collect()
}
/// `requests.json`: a right request per route.
pub fn requests() -> Map<String, Json> {
    serde_json::from_str(include_str!("requests.json")).expect("requests.json is an object")
}

fn lines(text: &str) -> Vec<Vec<u8>> {
    text.lines().filter(|line| !line.starts_with("# ")).map(|line| spell(line.as_bytes())).collect()
}

/// `\xNN`, `\\` and `«text*N»` spelt out.
fn spell(line: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < line.len() {
        let rest = &line[at..];
        if rest.starts_with(b"\\\\") {
            out.push(b'\\');
            at += 2;
        } else if rest.starts_with(b"\\x") {
            let hex = std::str::from_utf8(&rest[2..4]).expect("two digits");
            out.push(u8::from_str_radix(hex, 16).expect("two hexadecimal digits"));
            at += 4;
        } else if let Some((text, times, length)) = repetition(rest) {
            out.extend(spell(text).repeat(times));
            at += length;
        } else {
            out.push(rest[0]);
            at += 1;
        }
    }
    out
}

/// The text, the number and the whole length of `«text*N»` at the beginning of `rest`.
fn repetition(rest: &[u8]) -> Option<(&[u8], usize, usize)> {
    let inner = rest.strip_prefix("«".as_bytes())?;
    let end = inner.windows(2).position(|w| w == "»".as_bytes())?;
    let star = inner[..end].iter().rposition(|b| *b == b'*').expect("a repetition has a star");
    let times = std::str::from_utf8(&inner[star + 1..end]).expect("digits").parse().expect("a number");
    Some((&inner[..star], times, end + 4))
}

/// Every way to spoil one field of a body: the path of each value in it, the keys of its objects included.
pub fn fields(body: &Json) -> Vec<Vec<String>> {
    fn walk(value: &Json, path: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
        let inner: Vec<(String, &Json)> = match value {
            Json::Object(map) => map.iter().map(|(k, v)| (k.clone(), v)).collect(),
            Json::Array(list) => list.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
            _ => Vec::new(),
        };
        for (key, value) in inner {
            path.push(key);
            out.push(path.clone());
            walk(value, path, out);
            path.pop();
        }
    }
    let mut out = Vec::new();
    walk(body, &mut Vec::new(), &mut out);
    out
}

/// `body` as text with the value at `path` replaced by `raw`, which need not be JSON.
pub fn with_field(body: &Json, path: &[String], raw: &[u8]) -> Vec<u8> {
    let Some((key, rest)) = path.split_first() else { return raw.to_vec() };
    let mut out = Vec::new();
    let piece = |name: &str, value: &Json| {
        if name == key { with_field(value, rest, raw) } else { value.to_string().into_bytes() }
    };
    match body {
        Json::Object(map) => {
            for (name, value) in map {
                out.push(if out.is_empty() { b'{' } else { b',' });
                out.extend(Json::from(name.as_str()).to_string().into_bytes());
                out.push(b':');
                out.extend(piece(name, value));
            }
            out.push(b'}');
        }
        Json::Array(list) => {
            for (i, value) in list.iter().enumerate() {
                out.push(if out.is_empty() { b'[' } else { b',' });
                out.extend(piece(&i.to_string(), value));
            }
            out.push(b']');
        }
        other => out.extend(other.to_string().into_bytes()),
    }
    out
}

/// A small generator (xorshift64*): the same on every machine, and the seed is the whole of its state.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below n")
    }
    /// One of them.
    pub fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
    /// Bytes of any kind, a few up to `most`.
    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| u8::try_from(self.next() & 0xff).expect("a byte")).collect()
    }
    /// `bytes` with a few bytes changed, taken out, doubled or put in.
    pub fn bent(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len() + 1);
            match self.below(5) {
                0 if at < out.len() => out[at] ^= 1 << self.below(8),
                1 if at < out.len() => drop(out.remove(at)),
                2 => out.truncate(at),
                3 => {
                    let tail = out[at..].to_vec();
                    out.extend(tail.into_iter().take(64));
                }
                _ => {
                    let more = self.bytes(4);
                    out.splice(at..at, more);
                }
            }
        }
        out
    }
}

/// `FUZZ_SEED` and `FUZZ_ROUNDS` of `make fuzz`; without them seed 1 and one round.
pub fn asked() -> (u64, u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    (number("FUZZ_SEED"), number("FUZZ_ROUNDS"))
}
