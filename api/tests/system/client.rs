//! HTTP/1.1 over a blocking socket: one request at a time, bodies by length or in
//! chunks, a timeout on every read, so that a server that hangs fails a test.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde::de::DeserializeOwned;

/// How long an answer may take: longer than every timeout of the server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Somebody with a key.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    pub(crate) key: String,
}

/// One open connection of a caller.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    key: String,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
    /// The server said that it closes the connection.
    pub(crate) closes: bool,
}

impl Caller {
    pub(crate) fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        Ok(Connection { stream: BufReader::new(stream), key: self.key.clone() })
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, b"")
    }

    pub(crate) fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask("POST", path, body.as_ref())
    }

    pub(crate) fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, b"")
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        let answer = self.connect().and_then(|mut connection| connection.send(method, path, body));
        answer.unwrap_or_else(|fault| panic!("{method} {path} was not answered: {fault}"))
    }
}

impl Connection {
    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> io::Result<Answer> {
        self.send("POST", path, body)
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut request = self.head(method, path, body.len());
        request.extend_from_slice(body);
        self.write(&request)?;
        self.read_answer()
    }

    /// The head of a request whose body has `body_bytes`.
    pub(crate) fn head(&self, method: &str, path: &str, body_bytes: usize) -> Vec<u8> {
        let key = &self.key;
        format!(
            "{method} {path} HTTP/1.1\r\nhost: systole\r\nx-api-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {body_bytes}\r\n\r\n"
        )
        .into_bytes()
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub(crate) fn read_answer(&mut self) -> io::Result<Answer> {
        let head = self.read_head()?;
        let body = match (head.is_chunked, head.body_bytes) {
            (true, _) => self.read_chunks()?,
            (false, Some(bytes)) => self.read_bytes(bytes)?,
            (false, None) => Vec::new(),
        };
        Ok(Answer { status: head.status, body, closes: head.closes })
    }

    fn read_head(&mut self) -> io::Result<Head> {
        let line = self.read_line()?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| malformed(&line))?;
        let mut head = Head { status, body_bytes: None, is_chunked: false, closes: false };
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok(head);
            }
            head.take(&line.to_ascii_lowercase())?;
        }
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line()?;
            let bytes = usize::from_str_radix(&line, 16).map_err(|_| malformed(&line))?;
            body.extend(self.read_bytes(bytes)?);
            self.read_line()?;
            if bytes == 0 {
                return Ok(body);
            }
        }
    }

    fn read_bytes(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut body = vec![0; bytes];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }
}

/// What the head of an answer says about its body.
struct Head {
    status: u16,
    body_bytes: Option<usize>,
    is_chunked: bool,
    closes: bool,
}

impl Head {
    fn take(&mut self, line: &str) -> io::Result<()> {
        let (name, value) = line.split_once(':').ok_or_else(|| malformed(line))?;
        match (name, value.trim()) {
            ("content-length", length) => {
                self.body_bytes = Some(length.parse().map_err(|_| malformed(line))?);
            }
            ("transfer-encoding", "chunked") => self.is_chunked = true,
            ("connection", "close") => self.closes = true,
            _ => {}
        }
        Ok(())
    }
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not HTTP: {line:?}"))
}

impl Answer {
    /// The answer, if it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|fault| panic!("{fault} in {}", self.text()))
    }

    /// The body as text, cut to what a failed test should print.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(1000).collect()
    }
}
