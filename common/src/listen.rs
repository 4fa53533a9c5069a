//! Listening sockets.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use tokio::net::{TcpListener, TcpSocket};

/// Listens on an address. `configure` sets options that accepted connections inherit.
///
/// `[::]` takes IPv4 as well, whatever `net.ipv6.bindv6only` says. Where the system has no IPv6, it becomes `0.0.0.0`.
///
/// # Errors
/// Those of the system.
pub fn listen(
    address: SocketAddr,
    backlog: u32,
    configure: impl Fn(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpListener> {
    let is_every_address = address.ip() == IpAddr::from([0_u16; 8]);
    match open(address, backlog, is_every_address, &configure) {
        Err(error) if is_every_address && is_without_ipv6(&error) => {
            let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            tracing::info!(%address, "there is no IPv6 here: listening on IPv4 only");
            open(address, backlog, false, &configure)
        }
        result => result,
    }
}

fn open(
    address: SocketAddr,
    backlog: u32,
    takes_ipv4: bool,
    configure: impl Fn(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    if takes_ipv4 {
        socket2::SockRef::from(&socket).set_only_v6(false)?;
    }
    configure(&socket)?;
    socket.bind(address)?;
    socket.listen(backlog)
}

/// A kernel without IPv6 does not know the family (97); with IPv6 switched off it has no such address (99).
fn is_without_ipv6(error: &io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(97)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn every_address_is_ipv4_too() {
        let listener = listen("[::]:0".parse().unwrap(), 16, |_| Ok(())).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_canonical(), client.local_addr().unwrap().ip());
        // Without IPv6, this is what remains.
        if listener.local_addr().unwrap().is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
        }
    }

    #[test]
    fn other_errors_are_no_lack_of_ipv6() {
        assert!(is_without_ipv6(&io::Error::from_raw_os_error(97)));
        assert!(is_without_ipv6(&io::Error::from_raw_os_error(99)));
        assert!(!is_without_ipv6(&ErrorKind::AddrInUse.into()));
    }
}
