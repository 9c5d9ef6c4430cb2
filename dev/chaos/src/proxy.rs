//! A TCP proxy that misbehaves when it is told to. It knows nothing of what passes through it: what a protocol makes
//! of a fault is the business of those who speak it.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Where a [`Proxy`] leads.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
}

/// What a [`Proxy`] does with connections, old and new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Lets everything through.
    Pass,
    /// Ends every connection, and each new one at once.
    Cut,
    /// Holds whatever is sent, in either direction, for so long.
    Delay(Duration),
    /// Takes connections and lets nothing through. What was sent meanwhile arrives when it passes again, as TCP would
    /// repeat it.
    BlackHole,
}

/// A running proxy. It stops when dropped, with all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    _running: DropGuard,
}

impl Proxy {
    /// Listens at `address` (port 0 takes a free one) and leads to `upstream`, which need not be there yet.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start(address: SocketAddr, upstream: Upstream) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (mode, modes) = watch::channel(Mode::Pass);
        let running = CancellationToken::new();
        tokio::spawn(accept(listener, upstream, modes, running.clone()));
        Ok(Self { address, mode, _running: running.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does, at once.
    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn accept(
    listener: TcpListener,
    upstream: Upstream,
    modes: watch::Receiver<Mode>,
    running: CancellationToken,
) {
    while let Some(accepted) = running.run_until_cancelled(listener.accept()).await {
        let Ok((client, _)) = accepted else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (upstream, modes, running) = (upstream.clone(), modes.clone(), running.clone());
        tokio::spawn(async move { running.run_until_cancelled(connect(client, upstream, modes)).await });
    }
}

/// One connection, until one side or a cut ends it. Whoever is gone is nobody's error.
async fn connect(client: TcpStream, upstream: Upstream, mut modes: watch::Receiver<Mode>) {
    let _ = client.set_nodelay(true);
    if open(&mut modes).await.is_none() {
        return;
    }
    match upstream {
        Upstream::Tcp(address) => {
            if let Ok(server) = TcpStream::connect(address).await {
                let _ = server.set_nodelay(true);
                join(client, server, modes).await;
            }
        }
        Upstream::Unix(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                join(client, server, modes).await;
            }
        }
    }
}

async fn join<C, S>(client: C, server: S, modes: watch::Receiver<Mode>)
where
    C: AsyncRead + AsyncWrite,
    S: AsyncRead + AsyncWrite,
{
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    // Half a connection is none: no protocol of ours goes on when one side has said its last word.
    tokio::select! {
        () = pump(from_client, to_server, modes.clone()) => {}
        () = pump(from_server, to_client, modes) => {}
    }
}

/// Carries bytes one way until the end of the stream, an error, or a cut.
async fn pump<R, W>(mut from: R, mut to: W, mut modes: watch::Receiver<Mode>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut bytes = vec![0; 64 * 1024];
    while open(&mut modes).await.is_some() {
        let count = tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(count @ 1..) => count,
                _ => return,
            },
            changed = modes.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        match open(&mut modes).await {
            Some(delay) => sleep(delay).await,
            None => return,
        }
        if to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits until something may pass, and answers with what delay. `None` if the connection is to end.
async fn open(modes: &mut watch::Receiver<Mode>) -> Option<Duration> {
    loop {
        match *modes.borrow_and_update() {
            Mode::Pass => return Some(Duration::ZERO),
            Mode::Delay(delay) => return Some(delay),
            Mode::Cut => return None,
            Mode::BlackHole => {}
        }
        modes.changed().await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Instant};

    use tokio::time::timeout;

    use super::*;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    const SHORT: Duration = Duration::from_millis(200);

    /// A proxy before a server that says everything again.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        Proxy::start(ANY, Upstream::Tcp(address)).await.unwrap()
    }

    async fn say(stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        assert_eq!(&answer, b"ping");
        Ok(())
    }

    #[tokio::test]
    async fn it_passes_cuts_and_passes_again() {
        let proxy = echo().await;
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut stream).await.unwrap();
        proxy.set(Mode::Cut);
        assert_eq!(stream.read(&mut [0; 4]).await.unwrap(), 0, "an open connection is ended");
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut refused).await.unwrap_err();
        proxy.set(Mode::Pass);
        say(&mut TcpStream::connect(proxy.address()).await.unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn what_falls_into_the_hole_arrives_afterwards() {
        let proxy = echo().await;
        let mut old = TcpStream::connect(proxy.address()).await.unwrap();
        say(&mut old).await.unwrap();
        proxy.set(Mode::BlackHole);
        let mut new = TcpStream::connect(proxy.address()).await.unwrap();
        for stream in [&mut old, &mut new] {
            stream.write_all(b"ping").await.unwrap();
            timeout(SHORT, stream.read_u8()).await.unwrap_err();
        }
        proxy.set(Mode::Pass);
        for stream in [&mut old, &mut new] {
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await.unwrap();
            say(stream).await.unwrap();
        }
    }

    #[tokio::test]
    async fn it_delays_both_directions() {
        let proxy = echo().await;
        proxy.set(Mode::Delay(SHORT));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let began = Instant::now();
        say(&mut stream).await.unwrap();
        assert!(began.elapsed() >= 2 * SHORT, "{:?}", began.elapsed());
    }
}
