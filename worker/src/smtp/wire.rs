//! The bytes between us and a mail server, and a record of them for whoever asked for one.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

/// A reply that is longer than this is not one.
const REPLY: usize = 16 * 1024;
/// Lines of a transcript, and characters of each, that are kept.
const LINES: (usize, usize) = (200, 500);

/// A connection, in the clear or within TLS.
#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    peer: SocketAddr,
    /// What was read already and is to be read again.
    again: Vec<u8>,
    transcript: Option<Transcript>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S, peer: SocketAddr, transcript: Option<Transcript>) -> Self {
        Self { stream, peer, again: Vec::new(), transcript }
    }

    /// Has these bytes read once more.
    pub(super) fn read_again(mut self, bytes: Vec<u8>) -> Self {
        self.again = bytes;
        self
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }

    /// Says a line, and waits for the reply.
    pub(super) async fn ask(&mut self, line: &str) -> io::Result<Vec<u8>> {
        self.write_all(format!("{line}\r\n").as_bytes()).await?;
        self.flush().await?;
        self.reply().await
    }

    /// Reads a reply, and not a byte more: what somebody slipped in behind the answer to STARTTLS must not be taken for
    /// something that was said within TLS (RFC 3207 §4.2).
    pub(super) async fn reply(&mut self) -> io::Result<Vec<u8>> {
        let (mut reply, mut line) = (Vec::new(), 0);
        while reply.len() < REPLY {
            reply.push(self.read_u8().await?);
            if reply.ends_with(b"\n") {
                if reply.get(line + 3) != Some(&b'-') {
                    return Ok(reply);
                }
                line = reply.len();
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the reply does not end"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.again.is_empty() {
            let count = this.again.len().min(buf.remaining());
            buf.put_slice(&this.again.drain(..count).collect::<Vec<_>>());
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let (Poll::Ready(Ok(())), Some(transcript)) = (&polled, &this.transcript) {
            transcript.heard(&buf.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let (Poll::Ready(Ok(count)), Some(transcript)) = (&polled, &this.transcript) {
            transcript.said(&buf[..*count]);
        }
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S> AsyncTokioStream for Wire<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

/// What was said (`C:`) and heard (`S:`), line by line, without what a login says and without the text of a mail.
#[derive(Debug, Clone, Default)]
pub(super) struct Transcript(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    lines: Vec<String>,
    said: Vec<u8>,
    heard: Vec<u8>,
    hidden: Hidden,
}

/// What the client says just now that is not for a transcript.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Hidden {
    #[default]
    Nothing,
    /// Until the server has decided.
    Login,
    /// So many bytes by now.
    Text(usize),
}

impl Transcript {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.record().lines.clone()
    }

    /// A line of ours about what is not said in lines.
    pub(super) fn note(&self, text: &str) {
        self.record().push(format!("-- {text}"));
    }

    fn said(&self, bytes: &[u8]) {
        let mut record = self.record();
        if let Hidden::Text(length) = &mut record.hidden {
            *length += bytes.len();
            return;
        }
        record.said.extend_from_slice(bytes);
        while let Some(line) = take_line(&mut record.said) {
            let mut words = line.split(' ');
            let shown = if record.hidden == Hidden::Login {
                "***".to_owned()
            } else if words.next().is_some_and(|verb| verb.eq_ignore_ascii_case("AUTH")) {
                record.hidden = Hidden::Login;
                format!("AUTH {} ***", words.next().unwrap_or_default())
            } else {
                line
            };
            record.push(format!("C: {shown}"));
        }
    }

    fn heard(&self, bytes: &[u8]) {
        let mut record = self.record();
        record.heard.extend_from_slice(bytes);
        while let Some(line) = take_line(&mut record.heard) {
            let is_last = line.as_bytes().get(3) != Some(&b'-');
            if let Hidden::Text(length) = record.hidden {
                record.push(format!("C: (the mail, {length} bytes)"));
                record.hidden = Hidden::Nothing;
            }
            if is_last && line.starts_with("354") {
                record.hidden = Hidden::Text(0);
            } else if is_last && record.hidden == Hidden::Login && !line.starts_with("334") {
                record.hidden = Hidden::Nothing;
            }
            record.push(format!("S: {line}"));
        }
    }
}

impl Record {
    fn push(&mut self, line: String) {
        if self.lines.len() < LINES.0 {
            let plain = line.chars().map(|c| if c.is_control() { ' ' } else { c });
            self.lines.push(plain.take(LINES.1).collect());
        }
    }
}

fn take_line(bytes: &mut Vec<u8>) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line: Vec<u8> = bytes.drain(..=end).collect();
    Some(String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_has_neither_login_nor_text() {
        let transcript = Transcript::default();
        transcript.heard(b"220 mail\r\n");
        transcript.said(b"EHLO me\r\n");
        transcript.heard(b"250-mail\r\n250 AUTH PLAIN LO");
        transcript.heard(b"GIN\r\n");
        transcript.said(b"auth LOGIN\r\n");
        transcript.heard(b"334 VXNlcm5hbWU6\r\n");
        transcript.said(b"YW5u\r\n");
        transcript.heard(b"334 UGFzc3dvcmQ6\r\n");
        transcript.said(b"c2VjcmV0\r\n");
        transcript.heard(b"235 welcome\r\n");
        transcript.said(b"DATA\r\n");
        transcript.heard(b"354 go on\r\n");
        transcript.said(b"Subject: secret\r\n");
        transcript.said(b"\r\n.\r\n");
        transcript.heard(b"250 queued\r\n");
        transcript.said(b"QUIT\r\n");
        assert_eq!(
            transcript.lines(),
            [
                "S: 220 mail",
                "C: EHLO me",
                "S: 250-mail",
                "S: 250 AUTH PLAIN LOGIN",
                "C: AUTH LOGIN ***",
                "S: 334 VXNlcm5hbWU6",
                "C: ***",
                "S: 334 UGFzc3dvcmQ6",
                "C: ***",
                "S: 235 welcome",
                "C: DATA",
                "S: 354 go on",
                "C: (the mail, 22 bytes)",
                "S: 250 queued",
                "C: QUIT",
            ]
        );
    }
}
