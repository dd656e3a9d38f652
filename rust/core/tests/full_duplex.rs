//! The pipelining deadlock: a server that stops reading until its replies are read, and a client that would
//! read only when everything is written. With small socket buffers, only a full-duplex connection gets through.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use slotferry_core::net::{Bytes, Connection};
use slotferry_core::resp::{Decoded, Reply, decode, encode};
use socket2::{Domain, Socket, Type};

const COMMANDS: usize = 4_000;
const VALUE: usize = 2_000;
const SMALL: usize = 4_096;

/// Echo each command's bytes as a bulk, blocking, one after another: while a reply can't be written, nothing
/// is read.
fn echo(listener: &Socket, command_length: usize) {
    let (mut peer, _) = listener.accept().expect("the client connects");
    let mut command = vec![0; command_length];
    for _ in 0..COMMANDS {
        peer.read_exact(&mut command).expect("a command");
        let mut reply = Vec::new();
        encode::bulk(&mut reply, &command);
        peer.write_all(&reply).expect("a reply");
    }
}

fn small_buffers(socket: &Socket) {
    socket.set_recv_buffer_size(SMALL).expect("SO_RCVBUF");
    socket.set_send_buffer_size(SMALL).expect("SO_SNDBUF");
}

#[test]
fn a_peer_that_stops_reading_until_it_is_read_cannot_deadlock_us() {
    let mut command = Vec::new();
    encode::command(&mut command, &[b"RESTORE", &[b'x'; VALUE]]);

    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    small_buffers(&listener);
    listener
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .expect("a free port");
    listener.listen(1).expect("listening");
    let address = listener
        .local_addr()
        .expect("an address")
        .as_socket()
        .expect("IPv4");
    let command_length = command.len();
    let peer = thread::spawn(move || echo(&listener, command_length));

    let client = async {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        small_buffers(&socket);
        socket.connect(&address.into()).expect("connected");
        socket.set_nonblocking(true).expect("nonblocking");
        let stream = tokio::net::TcpStream::from_std(socket.into()).expect("a stream");
        let mut connection = Connection::over_tcp(stream);
        let mut out = Bytes::default();
        for _ in 0..COMMANDS {
            out.tail().extend_from_slice(&command);
        }
        let mut replies = 0;
        while replies < COMMANDS {
            connection
                .exchange(&mut out, true)
                .await
                .expect("an open connection");
            while let Decoded::Whole(reply, used) = decode(connection.received()).expect("RESP") {
                assert_eq!(reply, Reply::Bulk(Some(&command)));
                connection.consume(used);
                replies += 1;
            }
        }
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        // Not a measure of speed: without it a deadlock would hang the suite instead of failing it.
        .block_on(async { tokio::time::timeout(Duration::from_secs(120), client).await })
        .expect("no deadlock");
    peer.join().expect("the peer saw every command");
}
