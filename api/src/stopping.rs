//! How the API stops without a request that fails (goals R5), behind a proxy that learns of it only by what it sees:
//!
//! 1. As long as it still accepts (`SHUTDOWN_DELAY`), each answer says that its connection ends with it. Otherwise the proxy would
//!    send the next request over a connection that is being closed, and may not repeat it if it is a `POST`.
//! 2. The door closes behind those who stand in it: connections that the system has accepted are taken first.
//! 3. A moment later, when their first requests have come, connections end as soon as nothing is under way on them.

use std::{io, net::SocketAddr, time::Duration};

use axum::{
    http::{HeaderValue, header},
    response::Response,
    serve::Listener,
};
use common::shutdown::CancellationToken;
use tokio::net::{TcpListener, TcpStream};

/// How long the first request of a connection that was just taken may be on its way.
pub(crate) const FIRST_REQUEST: Duration = Duration::from_millis(200);

/// Says in every answer from `stop` on that the connection ends (RFC 9112 §9.6).
pub(crate) fn end_connection(stop: &CancellationToken, mut response: Response) -> Response {
    if stop.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Takes connections until `closing`, and those that have come by then.
pub(crate) struct Door {
    /// `None` once it is closed.
    open: Option<TcpListener>,
    address: SocketAddr,
    closing: CancellationToken,
    /// Who stood in it when it closed.
    last: Vec<(TcpStream, SocketAddr)>,
}

impl Door {
    pub(crate) fn new(listener: TcpListener, closing: CancellationToken) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { open: Some(listener), address, closing, last: Vec::new() })
    }

    fn close(&mut self) {
        // The system is asked itself: what tokio has not heard of yet would be reset.
        let Some(Ok(listener)) = self.open.take().map(TcpListener::into_std) else { return };
        while let Ok((stream, from)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            self.last.extend(stream.ok().map(|stream| (stream, from)));
        }
    }
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Some(accepted) = self.last.pop() {
                return accepted;
            }
            let Some(listener) = &mut self.open else { return std::future::pending().await };
            tokio::select! {
                accepted = Listener::accept(listener) => return accepted,
                () = self.closing.cancelled() => self.close(),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn who_stands_in_the_door_comes_in_and_nobody_after() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = CancellationToken::new();
        let mut door = Door::new(listener, closing.clone()).unwrap();
        // The system accepts them; nobody here has.
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        closing.cancel();
        let mut accepted = Vec::new();
        for _ in 0..5 {
            accepted.push(door.accept().await.0);
        }
        assert!(door.accept().now_or_never().is_none());
        assert!(TcpStream::connect(address).await.is_err());
        for mut inside in accepted {
            inside.write_all(b"a").await.unwrap();
        }
        for mut client in clients {
            let mut text = String::new();
            client.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "a");
        }
    }
}
