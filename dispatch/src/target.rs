//! Which addresses may be called.
//!
//! A subscriber names a url, and we stand inside the operator's network: without a
//! check, anybody with a key could let us call the database next door or the cloud's
//! metadata service. So deliveries go to public addresses, by `https`. What else may
//! be called the operator opens by ranges, `dispatch.allow_targets`, and `http` with
//! them.
//!
//! It is checked twice:
//!
//! 1. [`Targets::check_url`], when an endpoint is registered, says no as early as it
//!    can: to schemes, to user info, to literal addresses in any spelling, to what only a
//!    browser would mend and to names that no resolver knows.
//! 2. [`Targets::check_address`], at each dial, judges the addresses that a name has
//!    just then, and literal addresses, by the rules of this start. Exactly these are
//!    dialled, so a name that changes its mind in between gains nothing, and neither
//!    does a url that was registered under wider rules ([`Target::unchecked`]).
//!
//! Which addresses are public stands in `forbidden.rs`.
//!
//! It is no firewall: public addresses that lead inside (a hairpin, a proxy of the
//! receiver's own) are for the network to refuse.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, Scheme};
use ipnet::IpNet;
use url::{Host, Url};

use crate::forbidden::{forbidden, judged};

/// Longest url that is taken: what every browser and proxy takes as well.
pub const URL_BYTES_MAX: usize = 2_048;
/// Longest part of a name between dots (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;
/// Longest name, without the dot of the root (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// What may be called. Immutable: other settings are other `Targets`, with a client
/// of their own, so no pooled connection outlives the rules it was dialled under.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    allow: Vec<IpNet>,
}

impl Targets {
    /// Public addresses by `https`, and these ranges by `http` as well.
    #[must_use]
    pub fn new(allow: Vec<IpNet>) -> Targets {
        Targets { allow }
    }

    /// The same with ranges as settings have them: `10.0.0.0/8`, or one address.
    ///
    /// # Errors
    /// [`RangeFault`] with the first that is none.
    pub fn parse<T: AsRef<str>>(ranges: &[T]) -> Result<Targets, RangeFault> {
        ranges.iter().map(|range| parse_range(range.as_ref())).collect::<Result<_, _>>().map(Targets::new)
    }

    /// What a subscriber's url leads to, ready to be called. A name is not looked up:
    /// it may not exist yet, and what it stands for is judged at each dial.
    ///
    /// # Errors
    /// [`TargetFault`] says what is wrong and what would be right, and never prints
    /// the url: credentials may stand in it.
    pub fn check_url(&self, url: &str) -> Result<Target, TargetFault> {
        let text = url;
        let url = read(text)?;
        check_text(text, &url)?;
        self.check_host(&url, is_https(&url)?)?;
        Target::of(&url)
    }

    /// Whether an address may be called.
    #[must_use]
    pub fn allows(&self, address: IpAddr, https: bool) -> bool {
        self.opens(address) || (https && forbidden(address).is_none())
    }

    /// The same with the reason; `host` is what led to the address.
    ///
    /// # Errors
    /// [`TargetFault::Forbidden`] and [`TargetFault::PlainHttp`].
    pub fn check_address(&self, host: &str, address: IpAddr, https: bool) -> Result<(), TargetFault> {
        if self.opens(address) {
            return Ok(());
        }
        if let Some(range) = forbidden(address) {
            return Err(TargetFault::Forbidden { host: host.to_owned(), range });
        }
        if https { Ok(()) } else { Err(TargetFault::PlainHttp { host: host.to_owned() }) }
    }

    fn check_host(&self, url: &Url, https: bool) -> Result<(), TargetFault> {
        let host = url.host_str().unwrap_or_default();
        match url.host() {
            None => Err(TargetFault::Host),
            Some(Host::Ipv4(address)) => self.check_address(host, address.into(), https),
            Some(Host::Ipv6(address)) => self.check_address(host, address.into(), https),
            Some(Host::Domain(name)) if is_localhost(name) => {
                self.check_address(host, Ipv4Addr::LOCALHOST.into(), https)
            }
            // Every address the name has at a dial must be in an allowed range, so
            // without one there is no such name.
            Some(Host::Domain(_)) if !https && self.allow.is_empty() => {
                Err(TargetFault::PlainHttp { host: host.to_owned() })
            }
            Some(Host::Domain(_)) => Ok(()),
        }
    }

    /// Whether the operator opened an address, as it is or for the one it embeds.
    fn opens(&self, address: IpAddr) -> bool {
        let judged = judged(address);
        self.allow.iter().any(|range| range.contains(&address) || range.contains(&judged))
    }
}

/// A url that may be called.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    authority: Authority,
    /// As HTTP/1.1 asks for it: without scheme and host.
    path: Uri,
    host_header: HeaderValue,
}

impl Target {
    /// What a url leads to, whether or not that may be called: for an endpoint that was
    /// registered under other rules. It is of the form that [`Targets::check_url`] takes.
    ///
    /// It opens nothing. Each dial judges every address it is about to call, those that
    /// stand in the url and those of a name, with TLS and without; what may not be called
    /// is a failed exchange, [`PostFault::Refused`](crate::client::PostFault::Refused).
    ///
    /// # Errors
    /// [`TargetFault`] if it is no url of that form, but for what is asked of new ones alone.
    pub fn unchecked(url: &str) -> Result<Target, TargetFault> {
        Target::of(&read(url)?)
    }

    fn of(url: &Url) -> Result<Target, TargetFault> {
        let uri = Uri::try_from(url.as_str()).map_err(|_| TargetFault::Uri)?;
        Target::new(uri).ok_or(TargetFault::Uri)
    }

    fn new(uri: Uri) -> Option<Target> {
        let authority = uri.authority()?.clone();
        let path = Uri::from(uri.path_and_query()?.clone());
        let host_header = HeaderValue::from_str(authority.as_str()).ok()?;
        Some(Target { uri, authority, path, host_header })
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn path(&self) -> &Uri {
        &self.path
    }

    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.host_header
    }

    /// Where requests go.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Whose name the receiver's certificate bears; IPv6 addresses in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default()
    }

    /// Whether the receiver is called by TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }
}

/// Without path and query: receivers put tokens there.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({}://{}/...)", self.uri.scheme_str().unwrap_or_default(), self.host())
    }
}

/// Why a url or an address is not called. What a name stands for is not printed:
/// it would let subscribers read the operator's own names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetFault {
    /// Longer than anybody needs.
    #[error("the url has {bytes} bytes; send at most {URL_BYTES_MAX}")]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// It is no url.
    #[error("the url cannot be read ({0}); send one like https://example.com/hook")]
    Url(url::ParseError),
    /// It is one that HTTP cannot carry.
    #[error("the url cannot be requested; percent-encode what is unusual in its path and query")]
    Uri,
    /// Neither `https` nor `http`.
    #[error("the url's scheme is {scheme}; send one that begins with https://")]
    Scheme {
        /// What it begins with.
        scheme: String,
    },
    /// It has credentials, which would end up in logs.
    #[error("the url has a user name or a password in it; send them as `headers` instead")]
    UserInfo,
    /// It has a part that is never sent.
    #[error("the url has a fragment (#...), which is never sent; leave it out")]
    Fragment,
    /// It leads nowhere.
    #[error("the url has no host; send one like https://example.com/hook")]
    Host,
    /// Something that cannot be seen, most likely from copying.
    #[error("the url has white space or a control character in it; leave it out, or percent-encode it")]
    Space,
    /// A scheme and what follows it without `//`.
    #[error("the url has no // behind its scheme; send one like https://example.com/hook")]
    Authority,
    /// Two dots in a row, or one that begins the host.
    #[error("the url's host has an empty label between its dots; send one like https://example.com/hook")]
    EmptyLabel,
    /// A part of the host that DNS cannot carry.
    #[error("the url's host has a label of {bytes} bytes; DNS carries at most {LABEL_BYTES_MAX}")]
    LongLabel {
        /// How many it has.
        bytes: usize,
    },
    /// A host that DNS cannot carry.
    #[error("the url's host has {bytes} bytes; DNS carries at most {NAME_BYTES_MAX}")]
    LongName {
        /// How many it has.
        bytes: usize,
    },
    /// A port that nothing listens on.
    #[error("the url's port is 0; send one from 1 to 65535, or leave it out")]
    Port,
    /// It leads where only the operator may open.
    #[error(
        "{host} leads to {range}; use a public address, or let the operator open it in dispatch.allow_targets"
    )]
    Forbidden {
        /// What the url names.
        host: String,
        /// What kind of address it has.
        range: &'static str,
    },
    /// It would be called without TLS.
    #[error(
        "{host} would be called without TLS; use https, or let the operator open its range in dispatch.allow_targets"
    )]
    PlainHttp {
        /// What the url names.
        host: String,
    },
}

/// A range of the settings that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{range:?} in dispatch.allow_targets is no range of addresses; write one like 10.0.0.0/8, fd00::/8 or 127.0.0.1"
)]
pub struct RangeFault {
    /// As it was written.
    pub range: String,
}

/// Whether a name means this machine, which resolvers need not be asked about.
pub(crate) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let label = name.rsplit('.').next().unwrap_or_default();
    label.eq_ignore_ascii_case("localhost")
}

fn parse_range(range: &str) -> Result<IpNet, RangeFault> {
    let text = range.trim();
    let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    net.map_err(|_| RangeFault { range: range.to_owned() })
}

/// A url of a form that can be requested, wherever it leads.
fn read(url: &str) -> Result<Url, TargetFault> {
    if url.len() > URL_BYTES_MAX {
        return Err(TargetFault::TooLong { bytes: url.len() });
    }
    let url = Url::parse(url).map_err(TargetFault::Url)?;
    is_https(&url)?;
    refuse_extras(&url)?;
    Ok(url)
}

/// Refuses what a new url has that is mended in reading it, or can never be called.
fn check_text(text: &str, url: &Url) -> Result<(), TargetFault> {
    if text.contains(|letter: char| letter.is_whitespace() || letter.is_control()) {
        return Err(TargetFault::Space);
    }
    let behind = text.split_once(':').map_or("", |(_, behind)| behind);
    let Some(authority) = behind.strip_prefix("//") else { return Err(TargetFault::Authority) };
    if authority.starts_with(['/', '\\']) {
        return Err(TargetFault::Host);
    }
    if url.port() == Some(0) {
        return Err(TargetFault::Port);
    }
    match url.host() {
        Some(Host::Domain(name)) => check_name(name),
        _ => Ok(()),
    }
}

/// Whether DNS can carry a name, which may end with the dot of the root.
fn check_name(name: &str) -> Result<(), TargetFault> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > NAME_BYTES_MAX {
        return Err(TargetFault::LongName { bytes: name.len() });
    }
    for label in name.split('.') {
        match label.len() {
            0 => return Err(TargetFault::EmptyLabel),
            1..=LABEL_BYTES_MAX => {}
            bytes => return Err(TargetFault::LongLabel { bytes }),
        }
    }
    Ok(())
}

fn is_https(url: &Url) -> Result<bool, TargetFault> {
    match url.scheme() {
        "https" => Ok(true),
        "http" => Ok(false),
        scheme => Err(TargetFault::Scheme { scheme: scheme.to_owned() }),
    }
}

fn refuse_extras(url: &Url) -> Result<(), TargetFault> {
    if !url.username().is_empty() || url.password().is_some() {
        return Err(TargetFault::UserInfo);
    }
    if url.fragment().is_some() { Err(TargetFault::Fragment) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forbidden::*;

    fn nobody() -> Targets {
        Targets::default()
    }

    fn ourselves() -> Targets {
        Targets::parse(&["127.0.0.0/8"]).unwrap()
    }

    #[test]
    fn forbidden_addresses_are_called_by_nobody() {
        let cases = [
            ("0.0.0.0", "this network"),
            ("0.1.2.3", "this network"),
            ("10.0.0.1", PRIVATE),
            ("10.255.255.255", PRIVATE),
            ("172.16.0.1", PRIVATE),
            ("172.31.255.255", PRIVATE),
            ("192.168.1.1", PRIVATE),
            ("100.64.0.1", "shared"),
            ("100.100.100.200", "shared"),
            ("100.127.255.255", "shared"),
            ("127.0.0.1", LOOPBACK),
            ("127.255.255.255", LOOPBACK),
            ("169.254.169.254", METADATA),
            ("168.63.129.16", METADATA),
            ("169.254.0.1", LINK_LOCAL),
            ("192.0.0.1", "protocol"),
            ("192.0.2.1", DOCUMENTATION),
            ("198.51.100.1", DOCUMENTATION),
            ("203.0.113.1", DOCUMENTATION),
            ("192.88.99.1", "relay"),
            ("198.18.0.1", "benchmark"),
            ("198.19.255.255", "benchmark"),
            ("224.0.0.1", MULTICAST),
            ("239.255.255.250", MULTICAST),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", LOOPBACK),
            ("::2", "this network"),
            ("::7f00:1", LOOPBACK),
            ("::10.0.0.1", PRIVATE),
            ("::ffff:127.0.0.1", LOOPBACK),
            ("::ffff:169.254.169.254", METADATA),
            ("::ffff:0:127.0.0.1", NOT_PUBLIC),
            ("64:ff9b::7f00:1", LOOPBACK),
            ("64:ff9b::a00:1", PRIVATE),
            ("64:ff9b:1::7f00:1", "translated"),
            ("64:ff9b:1::808:808", "translated"),
            ("64:ff9b:2::808:808", NOT_PUBLIC),
            ("100::1", "discarded"),
            ("100:0:0:1::1", NOT_PUBLIC),
            ("1fff::1", NOT_PUBLIC),
            ("2001::1", "Teredo"),
            ("2001:0:7f00:1::", "Teredo"),
            ("2001:2::1", "protocol"),
            ("2001:10::1", ORCHID),
            ("2001:2f::1", ORCHID),
            ("2001:30::1", "protocol"),
            ("2001:1ff::1", "protocol"),
            ("2001:db8::1", DOCUMENTATION),
            ("2002:7f00:1::", LOOPBACK),
            ("2002:a00:1::1", PRIVATE),
            ("2002:a9fe:a9fe::", METADATA),
            ("3fff::1", DOCUMENTATION),
            ("3fff:fff::1", DOCUMENTATION),
            ("4000::1", NOT_PUBLIC),
            ("5f00::1", NOT_PUBLIC),
            ("fc00::1", PRIVATE),
            ("fd00:ec2::254", METADATA),
            ("fdff::1", PRIVATE),
            ("fe80::1", LINK_LOCAL),
            ("febf::1", LINK_LOCAL),
            ("fec0::1", NOT_PUBLIC),
            ("ff02::1", MULTICAST),
        ];
        for (text, expected) in cases {
            let address: IpAddr = text.parse().unwrap();
            let range = forbidden(address).unwrap_or_else(|| panic!("{text} is called"));
            assert!(range.contains(expected), "{text}: {range}");
            assert!(!nobody().allows(address, true) && !nobody().allows(address, false), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_called_by_https_only() {
        let cases = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.1",
            "169.253.0.1",
            "169.255.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2003::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
            "3ffe::1",
            "::ffff:8.8.8.8",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ];
        for text in cases {
            let address = text.parse().unwrap();
            assert!(nobody().allows(address, true), "{text}");
            assert!(!nobody().allows(address, false), "{text}");
            let fault = nobody().check_address(text, address, false).unwrap_err();
            assert_eq!(fault, TargetFault::PlainHttp { host: text.into() });
        }
    }

    #[test]
    fn an_open_range_is_called_by_http_too_and_in_every_spelling() {
        for text in ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"] {
            for https in [true, false] {
                assert!(ourselves().allows(text.parse().unwrap(), https), "{text}");
            }
        }
        for text in ["::1", "10.0.0.1", "169.254.169.254"] {
            assert!(!ourselves().allows(text.parse().unwrap(), true), "{text}");
        }
        let six = Targets::parse(&["fd00::/8", "::1", "64:ff9b:1::/48"]).unwrap();
        for text in ["fd00::7", "::1", "64:ff9b:1::808:808"] {
            assert!(six.allows(text.parse().unwrap(), false), "{text}");
        }
    }

    #[test]
    fn literal_addresses_are_refused_in_any_spelling() {
        let hosts = [
            "127.0.0.1",
            "127.0.0.1.",
            "127.1",
            "0x7f.1",
            "0x7f000001",
            "2130706433",
            "017700000001",
            "0177.0.0.01",
            "127%2e0%2e0%2e1",
            "１２７.0.0.1",
            "127。0。0。1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:7f00:0001]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::7f00:1]",
            "[::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "0",
            "169.254.169.254",
            "0xa9fea9fe",
            "[fd00:ec2::254]",
            "localhost",
            "LOCALHOST",
            "localhost.",
            "a.b.localhost",
            "ｌocalhost",
        ];
        for host in hosts {
            for scheme in ["https", "http"] {
                let fault = nobody().check_url(&format!("{scheme}://{host}:8443/hook?x=1")).unwrap_err();
                assert!(matches!(fault, TargetFault::Forbidden { .. }), "{host}: {fault}");
                assert!(fault.to_string().contains("dispatch.allow_targets"), "{fault}");
            }
        }
    }

    #[test]
    fn open_ranges_are_taken_in_any_spelling_and_dialled_as_checked() {
        let cases = [
            ("http://0x7f.1:8080/hook", "http://127.0.0.1:8080/hook"),
            ("https://2130706433", "https://127.0.0.1/"),
            ("http://[::ffff:127.0.0.1]/a%20b", "http://[::ffff:7f00:1]/a%20b"),
            ("http://localhost:1/", "http://localhost:1/"),
            ("http://a.localhost./", "http://a.localhost./"),
            ("HTTP://Receiver.Example:80/x", "http://receiver.example/x"),
            ("https://müller.example/ü?q=ä", "https://xn--mller-kva.example/%C3%BC?q=%C3%A4"),
        ];
        for (url, expected) in cases {
            assert_eq!(ourselves().check_url(url).unwrap().uri().to_string(), expected);
        }
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_way_out() {
        let long = format!("https://example.com/{}", "x".repeat(2_029));
        assert_eq!(long.len(), 2_049);
        let cases = [
            (long.as_str(), "2049 bytes"),
            ("", "https://example.com/hook"),
            ("example.com/hook", "https://example.com/hook"),
            ("https://", "https://example.com/hook"),
            ("https://[::1", "https://example.com/hook"),
            ("https://256.0.0.1/", "https://example.com/hook"),
            ("https://1.2.3.4.5/", "https://example.com/hook"),
            ("ftp://example.com/", "begins with https://"),
            ("file:///etc/passwd", "begins with https://"),
            ("javascript:alert(1)", "begins with https://"),
            ("https://user@example.com/", "`headers`"),
            ("https://user:hunter2@example.com/", "`headers`"),
            ("https://:hunter2@example.com/", "`headers`"),
            ("https://example.com/#part", "leave it out"),
            ("https://example.com/#", "leave it out"),
            ("http://example.com/", "use https"),
            ("http://8.8.8.8/", "use https"),
        ];
        for (url, expected) in cases {
            let fault = nobody().check_url(url).expect_err(url);
            assert!(fault.to_string().contains(expected), "{url}: {fault}");
            assert!(!format!("{fault} {fault:?}").contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn what_can_never_be_called_is_refused_for_new_urls_and_still_read_of_old_ones() {
        let label = "a".repeat(63);
        let name = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        for fits in
            [format!("https://{label}.example/"), format!("https://{name}./"), format!("https://{name}:1/")]
        {
            assert!(nobody().check_url(&fits).is_ok(), "{fits}");
        }
        let cases = [
            (" https://example.com/".to_owned(), TargetFault::Space),
            ("https://example.com/\n".to_owned(), TargetFault::Space),
            ("https://exam\tple.com/".to_owned(), TargetFault::Space),
            ("https://example.com/a b".to_owned(), TargetFault::Space),
            ("https://example.com/?a=\u{a0}".to_owned(), TargetFault::Space),
            ("https://example.com/\u{7f}".to_owned(), TargetFault::Space),
            ("https:example.com".to_owned(), TargetFault::Authority),
            ("https:/example.com".to_owned(), TargetFault::Authority),
            ("https:\\\\example.com".to_owned(), TargetFault::Authority),
            ("https:///x".to_owned(), TargetFault::Host),
            ("https://\\x".to_owned(), TargetFault::Host),
            ("https://example..com/".to_owned(), TargetFault::EmptyLabel),
            ("https://.example.com/".to_owned(), TargetFault::EmptyLabel),
            ("https://example.com../".to_owned(), TargetFault::EmptyLabel),
            (format!("https://a{label}.com/"), TargetFault::LongLabel { bytes: 64 }),
            (format!("https://a{name}/"), TargetFault::LongName { bytes: 254 }),
            ("https://example.com:0/".to_owned(), TargetFault::Port),
        ];
        for (url, expected) in cases {
            assert_eq!(nobody().check_url(&url), Err(expected), "{url:?}");
            assert!(Target::unchecked(&url).is_ok(), "{url:?}");
        }
    }

    #[test]
    fn http_to_a_name_waits_for_the_dial_if_any_range_is_open() {
        assert!(ourselves().check_url("http://receiver.example/").is_ok());
        assert!(nobody().check_url("http://receiver.example/").is_err());
        assert!(ourselves().check_url("http://8.8.8.8/").is_err());
    }

    #[test]
    fn a_target_says_how_it_is_called_and_hides_its_path() {
        let target = nobody().check_url("https://example.com:8443/token-123?key=hunter2").unwrap();
        assert!(target.is_https());
        assert_eq!(target.host(), "example.com");
        assert_eq!(format!("{target:?}"), "Target(https://example.com/...)");
    }

    #[test]
    fn a_url_of_wider_rules_is_still_read_and_leads_where_it_did() {
        for url in ["http://0x7f.1:8080/hook?x=1", "https://[::ffff:10.0.0.1]/", "http://a.localhost./x"] {
            assert!(nobody().check_url(url).is_err(), "{url}");
            let open = Targets::parse(&["127.0.0.0/8", "10.0.0.0/8"]).unwrap();
            assert_eq!(Target::unchecked(url), open.check_url(url), "{url}");
        }
        for url in ["ftp://127.0.0.1/", "https://user@127.0.0.1/", "https://127.0.0.1/#x", "127.0.0.1", ""] {
            assert!(Target::unchecked(url).is_err(), "{url}");
        }
    }

    #[test]
    fn names_that_only_look_like_localhost_are_names() {
        for name in ["localhost.example", "notlocalhost", "localhost.example.", "127.0.0.1.example"] {
            assert!(!is_localhost(name), "{name}");
            assert!(nobody().check_url(&format!("https://{name}/")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_wrong_range_is_named() {
        for range in ["10.0.0.0/33", "localhost", "", "10.0.0/8", "fd00::/129"] {
            let fault = Targets::parse(&["127.0.0.0/8", range]).unwrap_err();
            assert_eq!(fault, RangeFault { range: range.into() });
            assert!(fault.to_string().contains("dispatch.allow_targets"), "{fault}");
        }
    }
}
