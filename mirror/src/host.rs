//! Names of hosts that a tenant publishes under: those that are registered for it, and those that its objects ask for.
//!
//! *Guarantees*: a text is taken as it is or refused, never mended: proxies differ in what they make of capitals, trailing dots and other alphabets,
//! so what is compared here is what they will read.
//!
//! *Sources*: RFC 1123 for labels; the WHATWG URL standard for what is read as an IPv4 address: a name whose last label is a number.

use std::fmt;
use std::str::FromStr;

/// The longest name, in characters, as the DNS has it.
const LONGEST: usize = 253;

/// What is wrong with the name of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// There is none.
    #[error("no host is named")]
    Empty,
    /// It is too long.
    #[error("it is longer than 253 characters")]
    TooLong,
    /// Other letters than the DNS has.
    #[error(
        "it has characters beside a to z, 0 to 9, hyphens and dots: write it in small letters, and other alphabets in punycode (xn--…)"
    )]
    Characters,
    /// A label is empty, too long, or begins or ends with a hyphen.
    #[error("between its dots there must be 1 to 63 characters, no hyphen first or last; no dot stands at either end")]
    Label,
    /// A star that is not the whole first label.
    #[error("a * may only be the whole first label (*.example.com)")]
    Star,
    /// Too few labels.
    #[error("it needs two labels at least beside a *, as in example.com or *.example.com")]
    Short,
    /// The last label begins with a digit, or with anything but a letter.
    #[error("it is read as an address, since its last label does not begin with a letter")]
    Address,
}

/// A host, or, with a `*` as its first label, every name below one at any depth.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    /// Without the `*`.
    name: String,
    wildcard: bool,
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.len() > LONGEST {
            return Err(HostError::TooLong);
        }
        let (name, wildcard) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        if name.contains('*') {
            return Err(HostError::Star);
        }
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if !name.bytes().all(letter) {
            return Err(HostError::Characters);
        }
        if !name.split('.').all(common::name::is_label) {
            return Err(HostError::Label);
        }
        let Some((_, last)) = name.rsplit_once('.') else { return Err(HostError::Short) };
        if !last.starts_with(|first: char| first.is_ascii_lowercase()) {
            return Err(HostError::Address);
        }
        Ok(Self { name: name.to_owned(), wildcard })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

impl Host {
    /// The name itself, or the one that a wildcard is below.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is every name below [`Host::name`], and not that itself.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether every name that the other is, is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        if !self.wildcard {
            return self == other;
        }
        let is_below = other.name.strip_suffix(self.name.as_str()).is_some_and(|rest| rest.ends_with('.'));
        is_below || (other.wildcard && other.name == self.name)
    }

    /// Whether there is a name that both are. Names form a tree, so then one has all of the other's.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

/// The hosts that a tenant may publish under.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// Those that are registered for it.
    own: Vec<Host>,
    /// What of that an older registration of another's has.
    taken: Vec<Host>,
}

/// Why a tenant may not publish under a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// Nothing is registered for it.
    NothingRegistered,
    /// Not this one, or not all of it.
    NotRegistered,
    /// It is, and for another before, or a part of it.
    Taken,
}

impl Hosts {
    /// What is registered for a tenant, and what others have registered before of which it may not use a part.
    pub fn new(own: Vec<Host>, taken: Vec<Host>) -> Self {
        Self { own, taken }
    }

    /// Whether the tenant may publish under the whole of a host.
    pub fn ask(&self, host: &Host) -> Result<(), Denied> {
        if self.own.is_empty() {
            Err(Denied::NothingRegistered)
        } else if !self.own.iter().any(|own| own.covers(host)) {
            Err(Denied::NotRegistered)
        } else if self.taken.iter().any(|taken| taken.overlaps(host)) {
            Err(Denied::Taken)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Host {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn s23_a_host_is_taken_as_it_is_or_not_at_all() {
        for text in [
            "example.com",
            "a.b.c.example.com",
            "*.example.com",
            "1.example.com",
            "xn--bcher-kva.example",
            "a--b.example.com",
            "a.xn--p1ai",
        ] {
            assert_eq!(host(text).to_string(), text);
        }
        let long = format!("{}.example.com", vec!["a".repeat(60); 5].join("."));
        let wide = format!("{}.example.com", "a".repeat(64));
        for (text, error) in [
            ("", HostError::Empty),
            (long.as_str(), HostError::TooLong),
            (wide.as_str(), HostError::Label),
            ("App.example.com", HostError::Characters),
            ("app.EXAMPLE.com", HostError::Characters),
            ("app.example.com.", HostError::Label),
            (".app.example.com", HostError::Label),
            ("app..example.com", HostError::Label),
            ("-app.example.com", HostError::Label),
            ("app-.example.com", HostError::Label),
            ("*", HostError::Star),
            ("**.example.com", HostError::Star),
            ("*.*.example.com", HostError::Star),
            ("a.*.example.com", HostError::Star),
            ("a*.example.com", HostError::Star),
            ("*.", HostError::Label),
            ("*.com", HostError::Short),
            ("localhost", HostError::Short),
            ("192.0.2.1", HostError::Address),
            ("0x7f.0x1", HostError::Address),
            ("example.0x7f", HostError::Address),
            ("example.1", HostError::Address),
            ("[2001:db8::1]", HostError::Characters),
            ("2001:db8::1", HostError::Characters),
            // Letters that some fold into others, dots that some read as dots, and bytes that end a text.
            ("bücher.example", HostError::Characters),
            ("app.example.\u{212a}om", HostError::Characters),
            ("app\u{3002}example.com", HostError::Characters),
            ("app.example.com\u{0}", HostError::Characters),
            ("app.example.com\n", HostError::Characters),
            (" app.example.com", HostError::Characters),
            ("app.example.com:443", HostError::Characters),
            ("app.example.com/x", HostError::Characters),
            ("app%2eexample.com", HostError::Characters),
            ("app_x.example.com", HostError::Characters),
            ("~^app.example.com", HostError::Characters),
            ("app.example.com;}", HostError::Characters),
        ] {
            assert_eq!(text.parse::<Host>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn s23_a_wildcard_is_every_name_below_and_not_the_name_itself() {
        let wildcard = host("*.team.example.com");
        for below in ["a.team.example.com", "a.b.team.example.com", "*.team.example.com", "*.b.team.example.com"] {
            assert!(wildcard.covers(&host(below)), "{below}");
        }
        for beside in
            ["team.example.com", "example.com", "*.example.com", "ateam.example.com", "a.steam.example.com", "team.example.com.evil.org"]
        {
            assert!(!wildcard.covers(&host(beside)), "{beside}");
        }
        let exact = host("app.example.com");
        assert!(exact.covers(&exact) && !exact.covers(&host("*.app.example.com")) && !exact.covers(&host("a.app.example.com")));
        for (a, b, expected) in [
            ("*.example.com", "app.example.com", true),
            ("*.example.com", "*.a.example.com", true),
            ("*.a.example.com", "*.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("app.example.com", "app.example.com", true),
        ] {
            assert_eq!((host(a).overlaps(&host(b)), host(b).overlaps(&host(a))), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn s23_what_an_older_registration_has_is_not_the_tenants() {
        let hosts =
            Hosts::new(vec![host("*.example.com"), host("shop.example.org")], vec![host("app.example.com"), host("*.old.example.com")]);
        let ask = |text: &str| hosts.ask(&host(text));
        assert_eq!((ask("a.example.com"), ask("shop.example.org"), ask("*.new.example.com")), (Ok(()), Ok(()), Ok(())));
        assert_eq!((ask("example.com"), ask("a.shop.example.org")), (Err(Denied::NotRegistered), Err(Denied::NotRegistered)));
        assert_eq!((ask("app.example.com"), ask("x.old.example.com")), (Err(Denied::Taken), Err(Denied::Taken)));
        assert_eq!(ask("*.example.com"), Err(Denied::Taken), "a part of it is the other's");
        assert_eq!(Hosts::default().ask(&host("a.example.com")), Err(Denied::NothingRegistered));
    }
}
