//! One keep-alive connection as lean as HTTP/1.1 allows: a request is
//! one write of prepared bytes, an answer is read into one buffer that is used
//! again, and of its head only status, length and framing are looked at.
//!
//! Where server and load share two cores, a client that builds and parses headers
//! is measured with the server; this one costs about 2 us a request beside its
//! system calls. Anything it does not understand is an error, not a guess.

use std::io;

use memchr::memmem;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::client::{ClientError, Server};

/// The Content-Type of one JSON value.
pub const JSON: &str = "application/json";
/// The Content-Type of a JSON value a line.
pub const NDJSON: &str = "application/x-ndjson";
/// No server sends more head than this to one who asked so little.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A year of one metric by the second would be 2 GB; no read of a run comes near.
const BODY_BYTES_MAX: usize = 1 << 30;
/// The newest 500 samples are about 50 KB; grows for more.
const BUFFER_BYTES: usize = 64 * 1024;

/// One open connection.
#[derive(Debug)]
pub struct Lean {
    stream: TcpStream,
    /// What ends the request line, and the headers of every request.
    head_lines: Vec<u8>,
    request: Vec<u8>,
    /// The answer as it came, up to `filled`.
    buffer: Vec<u8>,
    filled: usize,
    /// The body of a chunked answer, put together.
    body: Vec<u8>,
}

/// An answer; its body lives until the next request.
#[derive(Debug)]
pub struct LeanAnswer<'a> {
    /// Its status.
    pub status: u16,
    /// The whole body.
    pub body: &'a [u8],
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeanError {
    /// No connection.
    #[error("no connection")]
    Connect(#[source] ClientError),
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[source] io::Error),
    /// An answer this client cannot read.
    #[error("the answer cannot be read: {what}")]
    Answer {
        /// What is wrong with it.
        what: &'static str,
    },
}

/// How an answer's end is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
}

#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    framing: Framing,
    /// Bytes of the head.
    bytes: usize,
}

impl Lean {
    /// Opens a connection.
    pub async fn connect(server: &Server) -> Result<Self, LeanError> {
        let stream = server.dial().await.map_err(|source| {
            let authority = server.authority().to_owned();
            LeanError::Connect(ClientError::Connect { authority, source })
        })?;
        let head_lines = [b" HTTP/1.1\r\n", &server.head_lines()[..]].concat();
        let buffer = vec![0; BUFFER_BYTES];
        Ok(Self { stream, head_lines, request: Vec::new(), buffer, filled: 0, body: Vec::new() })
    }

    /// Asks for `path`, which may have a query string.
    pub async fn get(&mut self, path: &str) -> Result<LeanAnswer<'_>, LeanError> {
        self.request.clear();
        self.request.extend(b"GET ");
        self.request.extend(path.as_bytes());
        self.request.extend(&self.head_lines);
        self.request.extend(b"\r\n");
        self.exchange().await
    }

    /// Sends a body to `path`, which may have a query string.
    pub async fn post(
        &mut self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<LeanAnswer<'_>, LeanError> {
        self.request.clear();
        self.request.extend(b"POST ");
        self.request.extend(path.as_bytes());
        self.request.extend(&self.head_lines);
        self.request.extend(b"content-type: ");
        self.request.extend(content_type.as_bytes());
        self.request.extend(b"\r\ncontent-length: ");
        self.request.extend(body.len().to_string().as_bytes());
        self.request.extend(b"\r\n\r\n");
        self.request.extend(body);
        self.exchange().await
    }

    /// Sends the request and reads its answer.
    async fn exchange(&mut self) -> Result<LeanAnswer<'_>, LeanError> {
        self.send().await.map_err(LeanError::Io)?;
        self.filled = 0;
        let head = self.head().await?;
        let body = match head.framing {
            Framing::Length(length) => {
                let end = head.bytes + length;
                while self.filled < end {
                    self.more().await?;
                }
                &self.buffer[head.bytes..end]
            }
            Framing::Chunked => {
                self.chunks(head.bytes).await?;
                &self.body[..]
            }
        };
        Ok(LeanAnswer { status: head.status, body })
    }

    async fn head(&mut self) -> Result<Head, LeanError> {
        loop {
            self.more().await?;
            if let Some(head) = read_head(&self.buffer[..self.filled])? {
                return Ok(head);
            }
            if self.filled > HEAD_BYTES_MAX {
                return Err(LeanError::Answer { what: "its head has no end" });
            }
        }
    }

    /// Puts the chunks behind `at` together.
    async fn chunks(&mut self, mut at: usize) -> Result<(), LeanError> {
        self.body.clear();
        loop {
            let line_end = loop {
                match memmem::find(&self.buffer[at..self.filled], b"\r\n") {
                    Some(end) => break at + end,
                    None => self.more().await?,
                }
            };
            let size = chunk_size(&self.buffer[at..line_end])?;
            let (from, to) = (line_end + 2, line_end + 2 + size);
            while self.filled < to + 2 {
                self.more().await?;
            }
            if size == 0 {
                // Trailers are not asked for, so the last chunk ends the answer.
                return Ok(());
            }
            self.body.extend_from_slice(&self.buffer[from..to]);
            at = to + 2;
        }
    }

    async fn send(&self) -> io::Result<()> {
        let mut left = &self.request[..];
        while !left.is_empty() {
            match self.stream.try_write(left) {
                Ok(sent) => left = &left[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there, at least a byte.
    async fn more(&mut self) -> Result<(), LeanError> {
        if self.filled > BODY_BYTES_MAX {
            return Err(LeanError::Answer { what: "it is larger than 1 GiB" });
        }
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.filled * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await.map_err(LeanError::Io)? {
            0 => Err(LeanError::Io(io::ErrorKind::UnexpectedEof.into())),
            bytes => {
                self.filled += bytes;
                Ok(())
            }
        }
    }
}

/// The head at the beginning of `bytes`; `None` if it is not complete.
fn read_head(bytes: &[u8]) -> Result<Option<Head>, LeanError> {
    let bad = |what| LeanError::Answer { what };
    let Some(end) = memmem::find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let text = str::from_utf8(&bytes[..end]).map_err(|_| bad("its head is not text"))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let status = status.ok_or_else(|| bad("it does not begin as HTTP/1.1"))?;
    let mut framing = (status == 204).then_some(Framing::Length(0));
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().ok().filter(|length| *length <= BODY_BYTES_MAX);
            framing = Some(Framing::Length(length.ok_or_else(|| bad("its length is no number"))?));
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            framing = Some(Framing::Chunked);
        }
    }
    let framing = framing.ok_or_else(|| bad("its end is not told"))?;
    Ok(Some(Head { status, framing, bytes: end + 4 }))
}

fn chunk_size(line: &[u8]) -> Result<usize, LeanError> {
    let text = str::from_utf8(line).ok().and_then(|text| text.split(';').next());
    let size = text.and_then(|text| usize::from_str_radix(text.trim(), 16).ok());
    size.filter(|size| *size <= BODY_BYTES_MAX).ok_or(LeanError::Answer { what: "a chunk has no size" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_whole_or_not_at_all() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nx: y\r\n\r\nhello";
        for cut in 0..text.len() - 5 {
            assert_eq!(read_head(&text[..cut]).expect("not wrong yet"), None);
        }
        let head = read_head(text).expect("a good head");
        assert_eq!(head, Some(Head { status: 200, framing: Framing::Length(12), bytes: text.len() - 5 }));
        let chunked = b"HTTP/1.1 422 X\r\ntransfer-encoding: chunked\r\n\r\n";
        let head = read_head(chunked).expect("a good head").expect("whole");
        assert_eq!((head.status, head.framing), (422, Framing::Chunked));
    }

    #[test]
    fn answers_without_an_end_and_other_protocols_are_errors() {
        for bad in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        ] {
            assert!(read_head(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(chunk_size(b"g").is_err() && chunk_size(b"ffffffffff").is_err());
        assert_eq!(chunk_size(b"1F;x=y").ok(), Some(31));
    }
}
