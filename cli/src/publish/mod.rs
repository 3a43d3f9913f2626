//! `rhizon publish`: a log of CloudEvents through the gateway, in its order.
//!
//! One batch is under way at a time, so what the file has first is stored first. A batch without an answer is sent again:
//! the events' ids see to it that none has a second effect.

mod input;
mod resume;

use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, Method, StatusCode};

use crate::args::{self, Output};
use crate::client::{self, Client};
use crate::event::Answer;
use crate::failure::{Failure, Problem};
use crate::progress::Progress;
use input::{Batch, Lines};
use resume::Mark;

const BATCHED: &str = "application/cloudevents-batch+json";

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub(crate) async fn run(client: &mut Client, args: &args::Publish, output: Output) -> Result<(), Failure> {
    let mut lines = Lines::open(&args.file).await?;
    let mut mark = Mark::of(&client.workspace, &args.file);
    if args.resume {
        mark.skip(&mut lines).await?;
    }
    client.reach().await?;
    let progress = Progress::start("events", lines.total, mark.accepted);
    let begun = Instant::now();
    let before = mark.accepted;
    let sent = tokio::select! {
        sent = send_all(client, &mut lines, &mut mark, &progress, args, output) => sent,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted("interrupted".to_owned())),
    };
    progress.finish();
    match sent {
        Ok(()) => {
            mark.forget();
            say_done(mark.accepted - before, begun.elapsed(), output);
            Ok(())
        }
        Err(failure) => Err(explain(&failure, &mark)),
    }
}

async fn send_all(
    client: &mut Client,
    lines: &mut Lines,
    mark: &mut Mark,
    progress: &Progress,
    args: &args::Publish,
    output: Output,
) -> Result<(), Failure> {
    let size = if args.wait.is_some() { 1 } else { usize::from(args.batch) };
    while let Some(batch) = lines.batch(size).await? {
        let outcome = send(client, &batch, progress, args).await?;
        mark.advance(&batch)?;
        if args.wait.is_some() {
            progress.suspend(|| say_outcome(&batch, outcome, output))?;
        }
        progress.set(mark.accepted);
    }
    Ok(())
}

/// Sends one batch, and again for as long as there is hope. Answers what became of its event, if somebody waited for that.
async fn send(
    client: &mut Client,
    batch: &Batch,
    progress: &Progress,
    args: &args::Publish,
) -> Result<Option<Answer>, Failure> {
    let since = Instant::now();
    let mut pause = Duration::from_millis(200);
    loop {
        let (failure, asked) = match attempt(client, batch, args.wait).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(Attempt::Final(problem)) => return Err(name_line(problem, batch)),
            Err(Attempt::Again(failure, asked)) => (failure, asked),
        };
        if since.elapsed() >= args.patience {
            return Err(failure);
        }
        progress.waiting(&failure);
        tokio::time::sleep(asked.unwrap_or(pause).min(LONGEST_PAUSE)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum Attempt {
    /// Trying again can help; after this pause, if the gateway has named one.
    Again(Failure, Option<Duration>),
    Final(Problem),
}

async fn attempt(client: &mut Client, batch: &Batch, wait: Option<u8>) -> Result<Option<Answer>, Attempt> {
    let again = |failure| Attempt::Again(failure, None);
    let preference = wait.map(|seconds| format!("wait={seconds}"));
    let headers = match &preference {
        Some(wait) => vec![(CONTENT_TYPE, BATCHED), (HeaderName::from_static("prefer"), wait.as_str())],
        None => vec![(CONTENT_TYPE, BATCHED)],
    };
    let answer = client.send(Method::POST, "/v1/events", &headers, batch.body()).await.map_err(again)?;
    let status = answer.status();
    if status.is_success() {
        let body = client::read(answer).await.map_err(again)?;
        return Ok(Some(body).filter(|_| status == StatusCode::OK).and_then(|body| serde_json::from_slice(&body).ok()));
    }
    let asked = pause_asked(answer.headers());
    let problem = client::problem(answer).await.map_err(again)?;
    Err(if problem.is_temporary() { Attempt::Again(problem.into(), asked) } else { Attempt::Final(problem) })
}

fn pause_asked(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The gateway names an event by its place in the batch; people look for a line of the file.
fn name_line(problem: Problem, batch: &Batch) -> Failure {
    let field = problem.field.clone().unwrap_or_default();
    let place = field.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let found = place.and_then(|(index, rest)| Some((batch.line(index.parse().ok()?)?, rest)));
    match found {
        Some((line, rest)) => {
            Problem { field: Some(format!("line {line}{}", rest.replacen('.', ": ", 1))), ..problem }.into()
        }
        None => problem.into(),
    }
}

/// What became of the one event of a batch.
fn say_outcome(batch: &Batch, outcomes: Option<Answer>, output: Output) -> Result<(), Failure> {
    match outcomes {
        Some(outcomes) => outcomes.print(output),
        None if output == Output::Json => Ok(()),
        None => {
            println!("line {}: accepted; nothing became of it in time", batch.line(0).unwrap_or_default());
            Ok(())
        }
    }
}

fn say_done(events: u64, took: Duration, output: Output) {
    let seconds = took.as_secs_f64();
    match output {
        Output::Json => println!("{}", serde_json::json!({"accepted": events, "seconds": seconds})),
        Output::Table => {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let rate = events as f64 / seconds.max(0.001);
            println!("{events} events accepted in {seconds:.1} s ({rate:.0}/s)");
        }
    }
}

/// Adds how far it came, and how to go on.
fn explain(failure: &Failure, mark: &Mark) -> Failure {
    let how = if mark.is_kept() { "; --resume goes on there" } else { "" };
    let text = format!(
        "{failure}\n{} events were accepted{how}, and publishing all of it again is safe too: no event has a second effect",
        mark.accepted
    );
    match failure {
        Failure::NotSo(_) => Failure::NotSo(text),
        Failure::Usage(_) => Failure::Usage(text),
        Failure::Unreachable(_) => Failure::Unreachable(text),
        Failure::Interrupted(_) => Failure::Interrupted(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers one request with each of these, and gives the bodies that came.
    async fn gateway(answers: &'static [&'static str]) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
        use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let played = tokio::spawn(async move {
            let mut stream = BufReader::new(listener.accept().await.unwrap().0);
            let mut bodies = Vec::new();
            for answer in answers {
                let (mut length, mut line) = (0, String::new());
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                    let header = line.to_ascii_lowercase();
                    length = header.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().unwrap());
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                bodies.push(String::from_utf8(body).unwrap());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            bodies
        });
        (Client::find(&crate::args::Target::of_gateway(&url)).await.unwrap(), played)
    }

    #[tokio::test]
    async fn a_batch_is_sent_again_until_it_is_accepted() {
        let answers = &[
            "HTTP/1.1 503 Away\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 429 Full\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Wrong\r\ncontent-length: 26\r\n\r\n{\"detail\":\"no\",\"field\":\"\"}",
        ];
        let (mut client, played) = gateway(answers).await;
        let mut lines = Lines::of(b"1\n2\n");
        let batch = lines.batch(2).await.unwrap().unwrap();
        let progress = Progress::start("events", None, 0);
        let args = args::Publish::of_file(std::path::Path::new("-"));
        send(&mut client, &batch, &progress, &args).await.unwrap();
        let wrong = send(&mut client, &batch, &progress, &args).await.err().unwrap();
        assert_eq!((wrong.code(), wrong.to_string().as_str()), (2, "no (HTTP 400)"));
        assert_eq!(played.await.unwrap(), ["[1,2]"; 4]);
    }

    #[tokio::test]
    async fn patience_has_an_end() {
        let (mut client, _) = gateway(&["HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n"]).await;
        let batch = Lines::of(b"1\n").batch(1).await.unwrap().unwrap();
        let args = args::Publish { patience: Duration::ZERO, ..args::Publish::of_file(std::path::Path::new("-")) };
        let failure = send(&mut client, &batch, &Progress::start("events", None, 0), &args).await.err().unwrap();
        assert_eq!(failure.code(), 3);
    }

    #[tokio::test]
    async fn an_invalid_event_is_named_by_its_line() {
        let mut lines = Lines::of(b"{}\n\n{}\n");
        let batch = lines.batch(10).await.unwrap().unwrap();
        let problem = |field: &str| Problem {
            status: 400,
            detail: "the attribute 'subject' is missing".into(),
            field: Some(field.into()),
            ..Problem::default()
        };
        let named = |field| name_line(problem(field), &batch).to_string();
        assert_eq!(named("[1].subject"), "line 3: subject: the attribute 'subject' is missing (HTTP 400)");
        assert_eq!(named("[1]"), "line 3: the attribute 'subject' is missing (HTTP 400)");
        assert_eq!(named("[9].subject"), "[9].subject: the attribute 'subject' is missing (HTTP 400)");
    }
}
