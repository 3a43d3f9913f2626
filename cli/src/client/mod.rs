//! A client of a workspace's gateway: where it is, who is calling, and one kept-alive connection.

mod cluster;
mod heads;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::args::Target;
use crate::failure::{Failure, Problem};
use cluster::Cluster;
pub(crate) use heads::ChainHead;

/// How long the gateway may take until its answer begins.
const ANSWER_TIME: Duration = Duration::from_mins(1);

/// How long before its end a token is renewed.
const RENEW_BEFORE: Duration = Duration::from_mins(1);

pub(crate) struct Client {
    way: Way,
    /// The workspace, where it is known: what is remembered about it is kept under this name.
    pub(crate) workspace: String,
    token: Option<Token>,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// Drives the connection.
    driver: JoinSet<()>,
}

/// How the gateway is reached.
enum Way {
    Direct { authority: String },
    Forward(Box<Cluster>),
}

struct Token {
    value: String,
    /// `None` for one that was given: whoever gave it renews it.
    ends: Option<Instant>,
}

impl Client {
    pub(crate) async fn find(target: &Target) -> Result<Self, Failure> {
        let given = target.token.clone().map(|value| Token { value, ends: None });
        let (way, workspace) = if let Some(url) = &target.gateway {
            (Way::Direct { authority: authority(url)? }, target.workspace.clone().unwrap_or_default())
        } else {
            let cluster = Cluster::find(target).await?;
            let workspace = cluster.workspace.clone();
            (Way::Forward(Box::new(cluster)), workspace)
        };
        Ok(Self { way, workspace, token: given, connection: None, driver: JoinSet::new() })
    }

    /// Proves that there is a way to the gateway: what fails here will not get better by waiting. A gateway that is not ready
    /// yet will.
    pub(crate) async fn reach(&mut self) -> Result<(), Failure> {
        self.renew_token().await?;
        if let Way::Forward(cluster) = &self.way
            && cluster.is_starting().await?
        {
            return Ok(());
        }
        self.connection = Some(self.connect().await?);
        Ok(())
    }

    /// One request. An error means that there is no answer, not that nothing has happened.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Bytes,
    ) -> Result<Response<Incoming>, Failure> {
        self.renew_token().await?;
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.host());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.value));
        }
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::new(body)).map_err(|error| Failure::Usage(error.to_string()))?;

        let mut connection = self.connect().await?;
        let broke_off = |why: &str| Failure::Unreachable(format!("the connection to the gateway broke off: {why}"));
        let answer = tokio::time::timeout(ANSWER_TIME, connection.send_request(request)).await;
        let answer =
            answer.map_err(|_| broke_off("no answer in time"))?.map_err(|error| broke_off(&error.to_string()))?;
        self.connection = Some(connection);
        Ok(answer)
    }

    /// What stands at a path; an answer that is no success is a failure.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Response<Incoming>, Failure> {
        let answer = self.send(Method::GET, path, &[], Bytes::new()).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(problem(answer).await?.into()) }
    }

    pub(crate) async fn get_json<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        let body = read(self.get(path).await?).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Failure::Unreachable(format!("the gateway's answer is not understood: {error}")))
    }

    /// What the workspace's status says of the end of an agent's journal; nothing where there is no cluster, or no right to look.
    pub(crate) async fn chain_head(&self, agent: &str, shard: u32) -> Option<ChainHead> {
        let Way::Forward(cluster) = &self.way else { return None };
        heads::of_shard(&cluster.status().await?, agent, shard)
    }

    fn host(&self) -> &str {
        match &self.way {
            Way::Direct { authority } => authority,
            Way::Forward(_) => "rhizon-gateway",
        }
    }

    async fn renew_token(&mut self) -> Result<(), Failure> {
        let Way::Forward(cluster) = &self.way else { return Ok(()) };
        let needed = match &self.token {
            None => true,
            Some(Token { ends, .. }) => ends.is_some_and(|ends| ends < Instant::now() + RENEW_BEFORE),
        };
        if needed {
            let (value, lifetime) = cluster.token().await?;
            self.token = Some(Token { value, ends: Some(Instant::now() + lifetime) });
        }
        Ok(())
    }

    /// The connection of the last request, or a new one when that has ended.
    async fn connect(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        if let Some(mut connection) = self.connection.take()
            && connection.ready().await.is_ok()
        {
            return Ok(connection);
        }
        self.driver.abort_all();
        match &self.way {
            Way::Direct { authority } => {
                let stream = TcpStream::connect(authority).await.map_err(|error| {
                    Failure::Unreachable(format!("cannot connect to the gateway at {authority}: {error}"))
                })?;
                // Without the option a request only leaves later.
                let _ = stream.set_nodelay(true);
                self.handshake(stream).await
            }
            Way::Forward(cluster) => {
                let stream = cluster.forward().await?;
                self.handshake(stream).await
            }
        }
    }

    async fn handshake<S>(&mut self, stream: S) -> Result<SendRequest<Full<Bytes>>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure::Unreachable(format!("the gateway does not speak HTTP: {error}")))?;
        self.driver.spawn(async move {
            // Its error is the error of the request that is under way.
            let _ = connection.await;
        });
        Ok(sender)
    }
}

/// The whole body.
pub(crate) async fn read(answer: Response<Incoming>) -> Result<Bytes, Failure> {
    let body = answer.into_body().collect().await;
    let body = body.map_err(|error| Failure::Unreachable(format!("the gateway's answer broke off: {error}")))?;
    Ok(body.to_bytes())
}

/// What an answer that is no success says.
pub(crate) async fn problem(answer: Response<Incoming>) -> Result<Problem, Failure> {
    let status = answer.status();
    Ok(Problem::read(status, &read(answer).await?))
}

/// Writes a name as one segment of a path (RFC 3986).
pub(crate) fn segment(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    name.bytes().map(encode).collect()
}

/// Host and port of a URL.
fn authority(url: &str) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::Usage(format!("--gateway '{url}': {why}; write it as http://HOST:PORT"));
    let uri: Uri = url.parse().map_err(|_| wrong("it is no URL"))?;
    if uri.scheme_str() != Some("http") {
        return Err(wrong("only http is supported, through a port-forward or on this machine"));
    }
    if !matches!(uri.path(), "" | "/") {
        return Err(wrong("it has a path"));
    }
    let host = uri.host().ok_or_else(|| wrong("it names no host"))?;
    Ok(format!("{host}:{}", uri.port_u16().unwrap_or(80)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_url_is_host_and_port() {
        assert_eq!(authority("http://127.0.0.1:8088"), Ok("127.0.0.1:8088".into()));
        assert_eq!(authority("http://gateway/"), Ok("gateway:80".into()));
        for url in ["https://gateway", "gateway:80", "http://gateway/v1", ""] {
            assert_eq!(authority(url).unwrap_err().code(), 2, "{url}");
        }
    }

    #[test]
    fn any_name_is_one_segment() {
        assert_eq!(segment("case-1_a.b~"), "case-1_a.b~");
        assert_eq!(segment("a b/c?ü"), "a%20b%2Fc%3F%C3%BC");
    }
}
