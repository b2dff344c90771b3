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
//!    can: to schemes, to user info, to literal addresses in any spelling.
//! 2. [`Targets::check_address`], at each dial, judges the addresses that a name has
//!    just then, and literal addresses, by the rules of this start. Exactly these are
//!    dialled, so a name that changes its mind in between gains nothing, and neither
//!    does a url that was registered under wider rules ([`Target::unchecked`]).
//!
//! IPv6 addresses that embed an IPv4 address in a known place (mapped, compatible,
//! NAT64's `64:ff9b::/96`, 6to4) are judged by that one. In `64:ff9b:1::/48` the
//! place depends on the operator's prefix, so all of it is refused.
//!
//! It is no firewall: public addresses that lead inside (a hairpin, a proxy of the
//! receiver's own) are for the network to refuse.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, Scheme};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use url::{Host, Url};

/// Longest url that is taken: what every browser and proxy takes as well.
pub const URL_BYTES_MAX: usize = 2_048;

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
        let url = read(url)?;
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
    /// [`TargetFault`] if it is no url of that form.
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

/// What kind of address it is, if it is one that nobody but the operator opens.
fn forbidden(address: IpAddr) -> Option<&'static str> {
    match judged(address) {
        IpAddr::V4(address) => {
            FORBIDDEN_V4.iter().find_map(|(range, name)| range.contains(&address).then_some(*name))
        }
        IpAddr::V6(address) => {
            FORBIDDEN_V6.iter().find_map(|(range, name)| range.contains(&address).then_some(*name))
        }
    }
}

/// The IPv4 address that an IPv6 address stands for, else the address itself.
fn judged(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(outer) => embedded(outer).map_or(address, IpAddr::V4),
    }
}

fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, ..] = address.segments();
    let [.., w, x, y, z] = address.octets();
    let last = Ipv4Addr::new(w, x, y, z);
    match [a, b, c, d, e, f] {
        // `::` and `::1` are of the same block and have a meaning of their own.
        [0, 0, 0, 0, 0, 0] if address.is_unspecified() || address.is_loopback() => None,
        [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Some(last),
        [0x2002, high, low, ..] => Some(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))),
        _ => None,
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), bits)
}

const fn v6(start: [u16; 8], bits: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = start;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), bits)
}

/// From IANA's registry of special addresses (RFC 6890 and its successors) and the
/// clouds' documents; the first match gives the name.
const FORBIDDEN_V4: [(Ipv4Net, &str); 18] = [
    (v4(0, 0, 0, 0, 8), "an address of this network (0.0.0.0/8)"),
    (v4(10, 0, 0, 0, 8), PRIVATE),
    (v4(172, 16, 0, 0, 12), PRIVATE),
    (v4(192, 168, 0, 0, 16), PRIVATE),
    (v4(100, 64, 0, 0, 10), "a provider's shared address (100.64.0.0/10)"),
    (v4(127, 0, 0, 0, 8), LOOPBACK),
    (v4(169, 254, 169, 254, 32), METADATA),
    // Azure's platform services, in the midst of public addresses.
    (v4(168, 63, 129, 16, 32), METADATA),
    (v4(169, 254, 0, 0, 16), LINK_LOCAL),
    (v4(192, 0, 0, 0, 24), "an address of a protocol's own (192.0.0.0/24)"),
    (v4(192, 0, 2, 0, 24), DOCUMENTATION),
    (v4(198, 51, 100, 0, 24), DOCUMENTATION),
    (v4(203, 0, 113, 0, 24), DOCUMENTATION),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay's address (192.88.99.0/24)"),
    (v4(198, 18, 0, 0, 15), "a benchmark's address (198.18.0.0/15)"),
    (v4(224, 0, 0, 0, 4), MULTICAST),
    (v4(255, 255, 255, 255, 32), "the broadcast address"),
    (v4(240, 0, 0, 0, 4), "a reserved address (240.0.0.0/4)"),
];

/// Behind the named ones come the three that leave `2000::/3`, all that is public.
const FORBIDDEN_V6: [(Ipv6Net, &str); 17] = [
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), "the unspecified address"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), LOOPBACK),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "an address translated inside the network (64:ff9b:1::/48)"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "an address whose packets are discarded (100::/64)"),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "a Teredo address (2001::/32)"),
    (v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28), ORCHID),
    (v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28), ORCHID),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "an address of a protocol's own (2001::/23)"),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), DOCUMENTATION),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), DOCUMENTATION),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), PRIVATE),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), LINK_LOCAL),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), MULTICAST),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 3), NOT_PUBLIC),
    (v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2), NOT_PUBLIC),
    // Site-local addresses (fec0::/10) are among these.
    (v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1), NOT_PUBLIC),
];

const DOCUMENTATION: &str = "an address for documents";
const LINK_LOCAL: &str = "a link-local address";
const LOOPBACK: &str = "a loopback address";
const METADATA: &str = "a cloud's metadata service";
const MULTICAST: &str = "a multicast address";
const NOT_PUBLIC: &str = "an address that is not public (outside 2000::/3)";
const ORCHID: &str = "an ORCHID, which is no address (2001:10::/28, 2001:20::/28)";
const PRIVATE: &str = "a private address";

#[cfg(test)]
mod tests {
    use super::*;

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
            ("http://[::ffff:127.0.0.1]/a b", "http://[::ffff:7f00:1]/a%20b"),
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
