//! One exchange with a receiver, in two steps under one deadline.
//!
//! ```text
//!     connect                          send
//! |----------------------|        |------------------------|
//!  room -> dial -> TLS             write -> head -> body
//! ```
//!
//! Whoever calls may do something else between the two, which is no part of the deadline, as
//! what it waits for room is not: so no body is made for a receiver that takes no connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use tokio::time::{Instant, timeout_at};

use crate::client::{Answer, Client, PostFault, request};
use crate::pool::{Line, PoolFault};
use crate::room::Wait;
use crate::target::Target;

/// An exchange with a receiver. Dropped before it was sent it leaves its connection to others.
pub(crate) struct Call<'a> {
    client: &'a Client,
    timeout: Duration,
    took: Duration,
    line: Option<Line<'a>>,
}

impl Client {
    /// An exchange that takes so long at most. It may wait as long for room for a connection.
    pub(crate) fn call(&self, timeout: Duration) -> Call<'_> {
        Call { client: self, timeout, took: Duration::ZERO, line: None }
    }
}

impl Call<'_> {
    /// How long it took, but for what it waited for room.
    pub(crate) fn took(&self) -> Duration {
        self.took
    }

    /// Leaves the connection to others, and looks for one again when it sends.
    pub(crate) fn hang_up(&mut self) {
        self.line = None;
    }

    /// Finds a connection, or makes one.
    pub(crate) async fn connect(&mut self, target: &Target) -> Result<(), PostFault> {
        let Client { pool, standing, .. } = self.client;
        self.line = pool.kept(target, *standing);
        if self.line.is_some() {
            return Ok(());
        }
        let wait = Wait::default();
        let made = pin!(pool.made(target, *standing, &wait));
        self.line = Some(within(self.timeout, &mut self.took, &wait, made).await?);
        Ok(())
    }

    /// Sends a body and reads the answer; over what was connected before, if that is still
    /// open.
    pub(crate) async fn send(
        &mut self,
        target: &Target,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, PostFault> {
        let Client { pool, standing, .. } = self.client;
        let wait = Wait::default();
        let sent = pin!(pool.send(self.line.take(), target, *standing, request(headers, body), &wait));
        let (head, body) = within(self.timeout, &mut self.took, &wait, sent).await?;
        Ok(Answer::of(head, body))
    }
}

/// Runs a step of an exchange until that took as long as it may, and adds what it took.
async fn within<T>(
    timeout: Duration,
    took: &mut Duration,
    wait: &Wait,
    mut step: Pin<&mut impl Future<Output = Result<T, PoolFault>>>,
) -> Result<T, PostFault> {
    let begun = Instant::now();
    let left = timeout.saturating_sub(*took);
    let mut until = begun + left;
    let ended = loop {
        let ended = timeout_at(until, step.as_mut()).await;
        // What it waited for room is no time of the receiver's.
        let later = begun + left + wait.total();
        if ended.is_ok() || wait.goes_on() || later <= until {
            break ended;
        }
        until = later;
    };
    *took += begun.elapsed().saturating_sub(wait.total());
    match ended {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(fault)) => Err(PostFault::of_pool(fault)),
        Err(_) if wait.goes_on() => Err(PostFault::NoRoom),
        Err(_) => Err(PostFault::Timeout { timeout }),
    }
}
