//! Asks whether something is ready, without client libraries.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A probe that takes longer than this counts as not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status code that `GET path` answers, and the body.
pub(crate) fn http_get(addr: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&reachable(addr), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // One write, so that the request arrives whole.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
    Ok((status, body.trim().to_owned()))
}

/// Whether somebody listens there.
pub(crate) fn tcp(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&reachable(addr), PATIENCE).is_ok()
}

/// Whether a Redis answers `PONG` on this socket; one that loads its data does not yet.
pub(crate) fn redis(socket: &Path) -> bool {
    redis_command(socket, "PING").is_ok_and(|answer| answer.starts_with("+PONG"))
}

/// Sends one inline command to a Redis, and reads the start of the answer.
pub(crate) fn redis_command(socket: &Path, command: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{command}\r\n").as_bytes())?;
    let mut answer = [0; 64];
    let read = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
}

/// The address to connect to for an address that was bound, which may stand for all interfaces.
pub(crate) fn reachable(mut addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => addr.set_ip(IpAddr::from([127, 0, 0, 1])),
        IpAddr::V6(ip) if ip.is_unspecified() => addr.set_ip(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])),
        _ => {}
    }
    addr
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn reads_status_and_body() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nno\r\n").unwrap();
            String::from_utf8(request).unwrap()
        });
        assert_eq!(http_get(addr, "/readyz").unwrap(), (503, "no".to_owned()));
        assert!(server.join().unwrap().starts_with("GET /readyz HTTP/1.1\r\n"));
    }

    #[test]
    fn all_interfaces_are_reached_at_loopback() {
        assert_eq!(reachable("0.0.0.0:80".parse().unwrap()), "127.0.0.1:80".parse().unwrap());
        assert_eq!(reachable("[::]:80".parse().unwrap()), "[::1]:80".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:80".parse().unwrap()), "10.0.0.1:80".parse().unwrap());
    }
}
