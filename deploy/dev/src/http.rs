//! A minimal HTTP/1.1 client for health checks, metrics and the admin ports.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, without chunked encoding.
    pub body: String,
}

/// `GET path` from `authority` (`host:port`).
pub async fn get(authority: &str, path: &str) -> Result<Response> {
    request("GET", authority, path).await
}

/// `POST path` to `authority`, without a body.
pub async fn post(authority: &str, path: &str) -> Result<Response> {
    request("POST", authority, path).await
}

async fn request(method: &str, authority: &str, path: &str) -> Result<Response> {
    let exchange = async {
        let mut stream = TcpStream::connect(authority).await?;
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(text.as_bytes()).await?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await?;
        anyhow::Ok(bytes)
    };
    let bytes = tokio::time::timeout(TIMEOUT, exchange).await.context("no response within the timeout")??;
    parse(&String::from_utf8_lossy(&bytes))
}

fn parse(text: &str) -> Result<Response> {
    let Some((head, body)) = text.split_once("\r\n\r\n") else { bail!("not an HTTP response: {text:?}") };
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status code")?;
    let chunked = head.to_ascii_lowercase().contains("\r\ntransfer-encoding: chunked");
    let body = if chunked { join_chunks(body)? } else { body.to_owned() };
    Ok(Response { status, body })
}

fn join_chunks(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, after) = rest.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk with an invalid size")?;
        if size == 0 {
            return Ok(body);
        }
        body.push_str(after.get(..size).context("a chunk that ends early")?);
        rest = after.get(size + 2..).context("a chunk without an end")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_with_and_without_chunked_encoding() {
        let plain = parse("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno").unwrap();
        assert_eq!((plain.status, plain.body.as_str()), (503, "no"));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, "abcde");
        assert!(parse("INFO {}\r\n").is_err());
    }
}
