use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicU16, Ordering},
};

/// Below the ports that systems give to outgoing connections (from 32768 on Linux, 49152 elsewhere), so that a port
/// stays free while the process that owns it is down.
const RANGE: std::ops::Range<u16> = 12_000..32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// An address that nothing listens on, given once. Test programs that run at the same time begin at different places.
pub(super) fn free() -> SocketAddr {
    let size = RANGE.end - RANGE.start;
    let first = u16::try_from(std::process::id().wrapping_mul(61) % u32::from(size)).unwrap_or_default();
    for _ in 0..size {
        let port = RANGE.start + (first + NEXT.fetch_add(1, Ordering::Relaxed) % size) % size;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Not by listening: a child that another thread is just starting would have that port for a moment, too.
        if TcpStream::connect(address).is_err() {
            return address;
        }
    }
    panic!("no port of {RANGE:?} is free");
}
