//! A full-duplex, pipelined connection.
//!
//! Invariant: reading never waits for writing. A peer that stops reading until its replies are read (which
//! every server does once its output buffers are full) can therefore not deadlock us.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::net::{Access, Address};

/// What can be written: the connection takes chunks and says how much of them went out.
pub trait Outgoing {
    /// The next bytes to write; empty if there are none now.
    fn chunk(&self) -> &[u8];
    /// `count` bytes of the chunk went out.
    fn advance(&mut self, count: usize);
}

/// Any transport.
trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// Room that is offered to one read.
const READ_SIZE: usize = 256 * 1024;

/// A larger buffer is not kept once what it grew for is gone.
const KEPT: usize = 4 * READ_SIZE;

/// An open connection and what was read from it but not used yet.
pub struct Connection {
    transport: Box<dyn Transport>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    unflushed: bool,
}

impl Connection {
    /// Open the transport: TCP, TLS over TCP, or a Unix socket. No command is sent.
    pub async fn dial(address: &Address, access: &Access) -> io::Result<Self> {
        let transport: Box<dyn Transport> = match address {
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                match &access.tls {
                    None => Box::new(stream),
                    Some(tls) => {
                        let name = tls.server_name.clone().unwrap_or_else(|| host.clone());
                        let name = ServerName::try_from(name)
                            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                        let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
                        Box::new(connector.connect(name, stream).await?)
                    }
                }
            }
        };
        Ok(Self::over(transport))
    }

    /// Use a TCP stream that is open already.
    pub fn over_tcp(stream: TcpStream) -> Self {
        Self::over(Box::new(stream))
    }

    fn over(transport: Box<dyn Transport>) -> Self {
        Self {
            transport,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            unflushed: false,
        }
    }

    /// What was read and not used yet.
    pub fn received(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Mark `count` received bytes as used.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
            if self.buffer.len() > KEPT {
                self.buffer = Vec::new();
            }
        }
    }

    /// Make room for a reply of `total` bytes that has begun to arrive.
    pub fn expect(&mut self, total: usize) {
        self.compact();
        // Grown step by step with what really comes, since the length is only the peer's word.
        let wanted = total.min((self.end * 2).max(READ_SIZE));
        if self.buffer.len() < wanted {
            self.grow(wanted);
        }
    }

    fn grow(&mut self, size: usize) {
        self.buffer.reserve_exact(size - self.buffer.len());
        self.buffer.resize(size, 0);
    }

    fn compact(&mut self) {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() > KEPT && self.end <= READ_SIZE {
            self.buffer.truncate(2 * READ_SIZE);
            self.buffer.shrink_to_fit();
        }
    }

    /// Write what `out` offers and, if `read`, read what is there; return after any progress.
    ///
    /// Fails when the peer closes the connection or breaks it. Safe to drop while it waits.
    pub async fn exchange(&mut self, out: &mut impl Outgoing, read: bool) -> io::Result<()> {
        poll_fn(|context| self.poll_exchange(context, out, read)).await
    }

    fn poll_exchange(
        &mut self,
        context: &mut Context<'_>,
        out: &mut impl Outgoing,
        read: bool,
    ) -> Poll<io::Result<()>> {
        let mut progress = false;
        while !out.chunk().is_empty() {
            match Pin::new(&mut self.transport).poll_write(context, out.chunk())? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => {
                    out.advance(count);
                    self.unflushed = true;
                    progress = true;
                }
                Poll::Pending => break,
            }
        }
        if self.unflushed && Pin::new(&mut self.transport).poll_flush(context)?.is_ready() {
            self.unflushed = false;
        }
        if read {
            match self.poll_read(context)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(_) => progress = true,
                Poll::Pending => {}
            }
        }
        if progress {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() {
            self.grow(READ_SIZE);
        }
        if self.end == self.buffer.len() {
            self.compact();
        }
        if self.end == self.buffer.len() {
            self.grow(self.buffer.len() + (self.buffer.len() / 2).max(READ_SIZE));
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        match Pin::new(&mut self.transport).poll_read(context, &mut room)? {
            Poll::Ready(()) => {
                let count = room.filled().len();
                self.end += count;
                Poll::Ready(Ok(count))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// A plain buffer of bytes to write; what it grew to for long ones is given back when they are out.
#[derive(Debug, Default)]
pub struct Bytes {
    data: Vec<u8>,
    written: usize,
}

impl Bytes {
    /// How many bytes are still to be written.
    pub fn unsent(&self) -> usize {
        self.data.len() - self.written
    }

    /// The buffer to append to; emptied first if all of it went out.
    pub fn tail(&mut self) -> &mut Vec<u8> {
        if self.written == self.data.len() {
            self.data.clear();
            self.written = 0;
        }
        &mut self.data
    }
}

impl Outgoing for Bytes {
    fn chunk(&self) -> &[u8] {
        &self.data[self.written..]
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        if self.written == self.data.len() && self.data.capacity() > KEPT {
            *self = Self::default();
        }
    }
}
