//! A receiver of webhooks that remembers what it was sent: a thread a connection,
//! HTTP/1.1 with Content-Length.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde::Deserialize;

/// Where a server sends deliveries. Its threads end with the test's process.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    received: Mutex<Received>,
    /// The status that everything is answered with.
    status: AtomicU16,
}

/// Everything that was answered with 2xx, or not.
#[derive(Clone, Default)]
pub(crate) struct Received {
    /// Bodies by `webhook-id`.
    pub(crate) bodies: HashMap<String, Vec<u8>>,
    /// Deliveries of an id that had been there, with the same bytes.
    pub(crate) repeated: u64,
    /// Ids that came with other bytes. There must be none.
    pub(crate) changed: Vec<String>,
}

/// A timeseries event, as far as the tests look.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) data: Data,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Data {
    pub(crate) user_id: String,
    pub(crate) series_type: String,
    pub(crate) ordering: u64,
    pub(crate) sample_count: usize,
    pub(crate) samples: Vec<EventSample>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct EventSample {
    pub(crate) timestamp: String,
    pub(crate) value: f64,
}

impl Receiver {
    pub(crate) fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { status: AtomicU16::new(200), ..Shared::default() });
        let serving = shared.clone();
        thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                thread::spawn(move || serve(connection, &shared));
            }
        });
        Receiver { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Answers with this status from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::SeqCst);
    }

    pub(crate) fn received(&self) -> Received {
        self.shared.received.lock().unwrap().clone()
    }
}

impl Received {
    /// All events of samples.
    pub(crate) fn events(&self) -> impl Iterator<Item = Event> {
        self.bodies.values().map(|body| serde_json::from_slice(body).unwrap())
    }
}

fn serve(connection: TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut writer = connection;
    while let Some((id, body)) = request(&mut reader) {
        let status = shared.status.load(Ordering::SeqCst);
        if (200..300).contains(&status) {
            note(&mut shared.received.lock().unwrap(), id, body);
        }
        let answer = format!("HTTP/1.1 {status} Fine\r\ncontent-length: 0\r\n\r\n");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn note(received: &mut Received, id: String, body: Vec<u8>) {
    match received.bodies.get(&id) {
        None => {
            received.bodies.insert(id, body);
        }
        Some(known) if *known == body => received.repeated += 1,
        Some(_) => received.changed.push(id),
    }
}

/// The id and body of the next request; `None` at the connection's end.
fn request(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let (mut id, mut length) = (String::new(), 0);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            if line == "\r\n" {
                break;
            }
            continue;
        };
        match name.to_ascii_lowercase().as_str() {
            "webhook-id" => id = value.to_owned(),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((id, body))
}
