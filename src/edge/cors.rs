//! CORS of `protocol.md` 1.1: a fixed list of origins, and any port of localhost in development.

/// The headers a browser may send.
const HEADERS: &str = "Content-Type, Authorization";
/// The methods a browser may use.
const METHODS: &str = "GET, POST, PUT, PATCH, DELETE, OPTIONS";
/// How long a browser may remember the answer to a preflight, in seconds.
const MAX_AGE: &str = "3600";

/// The headers that let the page at `origin` read the answer of `path`; none if it may not.
#[must_use]
pub fn headers(path: &str, origin: Option<&str>, allowed: &str, development: bool) -> Vec<(&'static str, String)> {
    if !applies(path) {
        return Vec::new();
    }
    // Answers differ by origin, so a cache between us and the browser must not mix them up.
    let mut out = vec![("Vary", "Origin".to_owned())];
    if let Some(origin) = origin.filter(|o| is_allowed(o, allowed, development)) {
        out.push(("Access-Control-Allow-Origin", origin.to_owned()));
        out.push(("Access-Control-Allow-Credentials", "true".to_owned()));
    }
    out
}

/// The further headers of a preflight's answer.
#[must_use]
pub fn preflight() -> [(&'static str, &'static str); 3] {
    [
        ("Access-Control-Allow-Headers", HEADERS),
        ("Access-Control-Allow-Methods", METHODS),
        ("Access-Control-Max-Age", MAX_AGE),
    ]
}

/// True for the paths that pages may call.
#[must_use]
pub fn applies(path: &str) -> bool {
    path.starts_with("/api/")
}

fn is_allowed(origin: &str, allowed: &str, development: bool) -> bool {
    let listed = allowed.split(',').map(str::trim).any(|o| !o.is_empty() && o == origin);
    let local = origin
        .strip_prefix("http://localhost:")
        .is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()));
    listed || (development && local)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets_in(origin: &str, allowed: &str, development: bool) -> bool {
        headers("/api/x", Some(origin), allowed, development)
            .iter()
            .any(|(n, v)| n.ends_with("Allow-Origin") && v == origin)
    }

    #[test]
    fn only_listed_origins_are_let_in() {
        let list = "https://a.example, https://b.example";
        assert!(lets_in("https://a.example", list, false) && lets_in("https://b.example", list, false));
        assert!(!lets_in("https://c.example", list, false) && !lets_in("https://a.example.evil", list, false));
        assert!(!lets_in("", "", false) && !lets_in("null", "", true));
    }

    #[test]
    fn localhost_is_let_in_in_development_only_and_only_with_a_port() {
        assert!(lets_in("http://localhost:5173", "", true) && !lets_in("http://localhost:5173", "", false));
        assert!(!lets_in("http://localhost:5173.evil", "", true) && !lets_in("http://localhost:", "", true));
    }

    #[test]
    fn paths_outside_the_api_have_no_cors() {
        assert!(headers("/debug/towns/t/status", Some("https://a"), "https://a", true).is_empty());
    }
}
