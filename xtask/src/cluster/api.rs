//! Just enough of a client for the cluster's own helpers: HTTP/1.0 over the socket of `kubectl proxy`, which does TLS and identity.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde_json::Value;

#[derive(Clone)]
pub(crate) struct Api {
    pub socket: PathBuf,
}

impl Api {
    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let (status, mut body) = self.request("GET", path, "")?;
        let mut text = String::new();
        body.read_to_string(&mut text)?;
        if status != 200 {
            bail!("GET {path} answered {status}: {text}");
        }
        serde_json::from_str(&text).with_context(|| format!("cannot read the answer to GET {path}"))
    }

    /// Gives the status: whether 404 or 409 is fine is for the caller to say.
    pub(crate) fn send(&self, method: &str, path: &str, body: &Value) -> Result<u16> {
        self.request(method, path, &body.to_string()).map(|(status, _)| status)
    }

    /// Calls `changed` for each event until the server ends the watch. It begins with one event for each object there is.
    pub(crate) fn watch(&self, path: &str, mut changed: impl FnMut()) -> Result<()> {
        let (status, body) = self.request("GET", &format!("{path}?watch=true"), "")?;
        if status != 200 {
            bail!("watching {path} answered {status}");
        }
        for line in body.lines() {
            line?;
            changed();
        }
        Ok(())
    }

    /// HTTP/1.0, so that the answer is not chunked and ends with the connection.
    fn request(&self, method: &str, path: &str, body: &str) -> Result<(u16, BufReader<UnixStream>)> {
        let mut stream = UnixStream::connect(&self.socket).context("the proxy to the API server does not listen")?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let status =
            line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("the proxy's answer is no HTTP")?;
        while line.trim_end() != "" {
            line.clear();
            reader.read_line(&mut line)?;
        }
        Ok((status, reader))
    }
}
