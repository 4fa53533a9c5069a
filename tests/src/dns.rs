//! A name server with one name, whose addresses a test changes: as an engine's DNS has the containers of a service.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
};

use parking_lot::Mutex;

/// It answers every question for IPv4 addresses with the same list, and other questions with none.
pub struct NameServer {
    /// Where it listens.
    pub address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
}

const HEADER_BYTES: usize = 12;
const TYPE_A: [u8; 2] = [0, 1];

impl NameServer {
    /// Starts it on loopback. It ends with the test program.
    pub fn start() -> NameServer {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        let addresses = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::clone(&addresses);
        std::thread::spawn(move || {
            let mut question = [0; 1024];
            while let Ok((length, peer)) = socket.recv_from(&mut question) {
                let answer = answer(&question[..length], &answers.lock());
                let _ = socket.send_to(&answer, peer);
            }
        });
        NameServer { address, addresses }
    }

    /// The name has these addresses from now on.
    pub fn set(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock() = addresses.to_vec();
    }
}

/// RFC 1035. The question is repeated; each answer points to its name.
fn answer(message: &[u8], addresses: &[Ipv4Addr]) -> Vec<u8> {
    let name_end = HEADER_BYTES + message[HEADER_BYTES..].iter().position(|byte| *byte == 0).unwrap() + 1;
    let question = &message[HEADER_BYTES..name_end + 4];
    let addresses = if question[question.len() - 4..][..2] == TYPE_A { addresses } else { &[] };
    let count = u16::try_from(addresses.len()).unwrap().to_be_bytes();
    // A response, authoritative, without error; one question.
    let mut answer = [&message[..2], &[0x84, 0, 0, 1], &count, &[0, 0, 0, 0], question].concat();
    for address in addresses {
        // The name at offset 12, type A, class IN, one second, four bytes.
        answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}
