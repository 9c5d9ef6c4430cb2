//! SMTP connections: bytes, TLS and time. What is said in them is decided in `dialogue`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Identity;
use super::dialogue::{Dialogue, Rules, Then, Trouble};
use super::message::Message;
use super::store::Store;

/// RFC 5321 §4.5.3.1.4 asks for 512 bytes, RFC 4954 §4 for 12,288 in an AUTH exchange.
const COMMAND_LIMIT: usize = 12_288;
/// The server's timeout of RFC 5321 §4.5.3.2.7.
const IDLE_LIMIT: Duration = Duration::from_secs(300);
/// How long to wait before the next `accept` when the machine has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The certificate for STARTTLS.
pub(super) struct Tls {
    pub(super) certificate_pem: String,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(super) fn self_signed() -> anyhow::Result<Self> {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names)?;
        Self::with(&Identity { certificates: cert.pem(), key: signing_key.serialize_pem() })
    }

    pub(super) fn with(identity: &Identity) -> anyhow::Result<Self> {
        let certificates = CertificateDer::pem_slice_iter(identity.certificates.as_bytes());
        let certificates = certificates.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { certificate_pem: identity.certificates.clone(), acceptor })
    }
}

/// What the connections of a sink share.
pub(super) struct Server {
    pub(super) rules: Arc<Rules>,
    pub(super) implicit_tls: bool,
    pub(super) slow_for: Duration,
    pub(super) store: Arc<Store>,
    pub(super) tls: Tls,
    pub(super) shutdown: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// Why a conversation is over.
enum End {
    Closed,
    StartTls,
}

/// What was read of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// It is in the buffer, with its CRLF.
    Whole,
    /// It was longer than the limit and was thrown away, up to its CRLF.
    TooLong,
    /// The client has hung up.
    Eof,
}

impl Server {
    /// Accepts connections until shutdown.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&self);
                    self.tasks.spawn(async move {
                        if let Err(error) = server.serve(stream).await {
                            tracing::debug!(%peer, %error, "SMTP connection lost");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an SMTP connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut dialogue = Dialogue::new(Arc::clone(&self.rules));
        if !self.implicit_tls {
            stream.write_all(&dialogue.greeting()).await?;
        }
        if self.implicit_tls || matches!(self.converse(&mut stream, &mut dialogue).await?, End::StartTls) {
            let handshake = tokio::time::timeout(IDLE_LIMIT, self.tls.acceptor.accept(stream));
            let mut stream = tokio::select! {
                stream = handshake => stream??,
                () = self.shutdown.cancelled() => return Ok(()),
            };
            dialogue.secured();
            if self.implicit_tls {
                stream.write_all(&dialogue.greeting()).await?;
                stream.flush().await?;
            }
            self.converse(&mut stream, &mut dialogue).await?;
            stream.shutdown().await?;
        }
        Ok(())
    }

    /// Talks until one side is done. The reader's buffer dies with it: what a client sent behind STARTTLS in the clear
    /// is never taken for what it says over TLS (RFC 3207 §4.2).
    async fn converse<S>(&self, stream: &mut S, dialogue: &mut Dialogue) -> io::Result<End>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        loop {
            let limit =
                if dialogue.expects_data() { self.rules.max_size.saturating_add(3) } else { COMMAND_LIMIT };
            let read = tokio::select! {
                read = tokio::time::timeout(IDLE_LIMIT, read_line(&mut reader, &mut line, limit)) => read,
                () = self.shutdown.cancelled() => {
                    writer.write_all(b"421 The mail sink is stopping\r\n").await?;
                    return Ok(End::Closed);
                }
            };
            match read {
                Ok(Ok(Line::Whole)) => {}
                Ok(Ok(Line::TooLong)) if dialogue.expects_data() => {
                    dialogue.oversized_line();
                    continue;
                }
                Ok(Ok(Line::TooLong)) => {
                    writer.write_all(b"500 The line is too long\r\n").await?;
                    continue;
                }
                Ok(Ok(Line::Eof)) => return Ok(End::Closed),
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    writer.write_all(b"421 Nothing was said for too long\r\n").await?;
                    return Ok(End::Closed);
                }
            }

            let reply = dialogue.line(&line);
            if let Then::Mail(incoming) = reply.then {
                if incoming.trouble == Some(Trouble::Silent) {
                    return self.stay_silent(reader).await;
                }
                let late = incoming.trouble == Some(Trouble::Slow);
                self.store.add(Message::parse(incoming.envelope, incoming.raw));
                if late {
                    tokio::select! {
                        () = tokio::time::sleep(self.slow_for) => {}
                        () = self.shutdown.cancelled() => {}
                    }
                }
                writer.write_all(&reply.bytes).await?;
                continue;
            }
            writer.write_all(&reply.bytes).await?;
            match reply.then {
                Then::Close => return Ok(End::Closed),
                Then::StartTls => {
                    writer.flush().await?;
                    return Ok(End::StartTls);
                }
                Then::Continue | Then::Mail(_) => {}
            }
        }
    }

    /// Reads and says nothing until the client hangs up.
    async fn stay_silent(&self, mut reader: impl AsyncRead + Unpin) -> io::Result<End> {
        let mut nowhere = tokio::io::sink();
        tokio::select! {
            read = tokio::io::copy(&mut reader, &mut nowhere) => { read?; }
            () = self.shutdown.cancelled() => {}
        }
        Ok(End::Closed)
    }
}

/// Reads a line up to its CRLF. A bare LF does not end one, else a mail could hide commands from one server that it
/// shows to the next (RFC 5321 §2.3.8).
async fn read_line<R>(reader: &mut R, line: &mut Vec<u8>, limit: usize) -> io::Result<Line>
where
    R: AsyncBufRead + Unpin,
{
    line.clear();
    let mut too_long = false;
    loop {
        let read = reader.fill_buf().await?;
        if read.is_empty() {
            return Ok(Line::Eof);
        }
        let line_feed = read.iter().position(|&byte| byte == b'\n');
        let used = line_feed.map_or(read.len(), |at| at + 1);
        line.extend_from_slice(&read[..used]);
        reader.consume(used);
        if line.ends_with(b"\r\n") {
            return Ok(if too_long || line.len() > limit { Line::TooLong } else { Line::Whole });
        }
        if line.len() > limit {
            too_long = true;
            // The last byte may be the CR of the end.
            line.drain(..line.len() - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(mut bytes: &[u8], limit: usize) -> Vec<(Line, Vec<u8>)> {
        let mut reader = BufReader::with_capacity(3, &mut bytes);
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            match read_line(&mut reader, &mut line, limit).await.unwrap() {
                Line::Eof => return lines,
                read => lines.push((read, line)),
            }
        }
    }

    #[tokio::test]
    async fn only_crlf_ends_a_line() {
        let read = lines(b"a\nb\rc\r\n\r\nd\r\n", 100).await;
        let read: Vec<&[u8]> = read.iter().map(|(_, line)| line.as_slice()).collect();
        assert_eq!(read, [&b"a\nb\rc\r\n"[..], b"\r\n", b"d\r\n"]);
    }

    #[tokio::test]
    async fn a_long_line_is_dropped_up_to_its_end_wherever_the_buffer_breaks() {
        for length in 6..20 {
            let text = [vec![b'x'; length], b"\r\n.\r\n".to_vec()].concat();
            let read = lines(&text, 5).await;
            assert_eq!(read[0].0, Line::TooLong, "{length}");
            assert_eq!(read[1], (Line::Whole, b".\r\n".to_vec()), "{length}");
        }
    }
}
