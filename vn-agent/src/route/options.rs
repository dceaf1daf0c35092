//! What a request asks beside whose container: parameters as values, each by its own grammar.

use std::str;

use jiff::Timestamp;

use super::query::{Query, QueryError, pairs};

/// Options of `containerLogs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Wait for more at the end.
    pub follow: bool,
    /// Of the container's earlier run.
    pub previous: bool,
    /// A time before each line.
    pub timestamps: bool,
    /// Only the last so many seconds.
    pub since_seconds: Option<u64>,
    /// Only after this time.
    pub since_time: Option<Timestamp>,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only so many bytes.
    pub limit_bytes: Option<u64>,
    /// One of the two streams.
    pub stream: Option<LogStream>,
}

/// Which stream of a container's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Both.
    All,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl LogStream {
    const fn name(self) -> &'static str {
        match self {
            Self::All => "All",
            Self::Stdout => "Stdout",
            Self::Stderr => "Stderr",
        }
    }
}

impl LogOptions {
    pub(super) fn parse(query: &str) -> Result<Self, QueryError> {
        let mut options = Self::default();
        let mut seen = Seen::default();
        for (key, value) in pairs(query)? {
            match key {
                "follow" => options.follow = boolean(seen.once("follow")?, &value)?,
                "previous" => options.previous = boolean(seen.once("previous")?, &value)?,
                "timestamps" => options.timestamps = boolean(seen.once("timestamps")?, &value)?,
                "sinceSeconds" => options.since_seconds = Some(number(seen.once("sinceSeconds")?, &value, 1)?),
                "sinceTime" => options.since_time = Some(time(seen.once("sinceTime")?, &value)?),
                "tailLines" => options.tail_lines = Some(number(seen.once("tailLines")?, &value, 0)?),
                "limitBytes" => options.limit_bytes = Some(number(seen.once("limitBytes")?, &value, 1)?),
                "stream" => options.stream = Some(stream(seen.once("stream")?, &value)?),
                other => return Err(unknown(other)),
            }
        }
        if options.since_seconds.is_some() && options.since_time.is_some() {
            return Err(QueryError::Value("sinceTime"));
        }
        Ok(options)
    }

    /// The same in the words of a kubelet and of an API server, which agree.
    pub(super) fn write(&self, query: &mut Query) {
        query.push_if("follow", "true", self.follow);
        query.push_if("previous", "true", self.previous);
        query.push_if("timestamps", "true", self.timestamps);
        query.push_some("sinceSeconds", self.since_seconds);
        query.push_some("sinceTime", self.since_time);
        query.push_some("tailLines", self.tail_lines);
        query.push_some("limitBytes", self.limit_bytes);
        query.push_some("stream", self.stream.map(LogStream::name));
    }
}

/// Which streams of a process are connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "four independent switches of the protocol, by their names there")]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// With a terminal.
    pub tty: bool,
}

/// Options of `exec`, and without a command of `attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessOptions {
    /// The command and its arguments; bytes, since no encoding is agreed on.
    pub command: Vec<Vec<u8>>,
    /// What is connected.
    pub streams: Streams,
}

impl ProcessOptions {
    pub(super) fn parse(query: &str, has_command: bool) -> Result<Self, QueryError> {
        let mut options = Self::default();
        let mut seen = Seen::default();
        for (key, value) in pairs(query)? {
            let streams = &mut options.streams;
            match key {
                "command" if has_command => options.command.push(value),
                "input" => streams.stdin = switch(seen.once("input")?, &value)?,
                "output" => streams.stdout = switch(seen.once("output")?, &value)?,
                "error" => streams.stderr = switch(seen.once("error")?, &value)?,
                "tty" => streams.tty = switch(seen.once("tty")?, &value)?,
                other => return Err(unknown(other)),
            }
        }
        if has_command && options.command.first().is_none_or(Vec::is_empty) {
            return Err(QueryError::Value("command"));
        }
        Ok(options)
    }

    pub(super) fn write(&self, query: &mut Query, words: &StreamWords) {
        for word in &self.command {
            query.push("command", word);
        }
        let Streams { stdin, stdout, stderr, tty } = self.streams;
        query.push_if(words.stdin, words.yes, stdin);
        query.push_if(words.stdout, words.yes, stdout);
        query.push_if(words.stderr, words.yes, stderr);
        query.push_if("tty", words.yes, tty);
    }
}

/// What the switches are called.
pub(super) struct StreamWords {
    stdin: &'static str,
    stdout: &'static str,
    stderr: &'static str,
    yes: &'static str,
}

/// At a kubelet.
pub(super) const KUBELET: StreamWords = StreamWords { stdin: "input", stdout: "output", stderr: "error", yes: "1" };

/// At an API server.
pub(super) const API_SERVER: StreamWords = StreamWords { stdin: "stdin", stdout: "stdout", stderr: "stderr", yes: "true" };

/// Ports that one port-forward names; over SPDY they come later, inside the stream.
const MOST_PORTS: usize = 256;

pub(super) fn ports(query: &str) -> Result<Vec<u16>, QueryError> {
    let mut ports = Vec::new();
    for (key, value) in pairs(query)? {
        if key != "port" {
            return Err(unknown(key));
        }
        for port in text("port", &value)?.split(',') {
            let port = number("port", port.as_bytes(), 1)?;
            ports.push(u16::try_from(port).map_err(|_| QueryError::Value("port"))?);
        }
    }
    if ports.len() > MOST_PORTS { Err(QueryError::Many) } else { Ok(ports) }
}

pub(super) fn only_cpu_and_memory(query: &str) -> Result<bool, QueryError> {
    let mut seen = Seen::default();
    let mut only = false;
    for (key, value) in pairs(query)? {
        if key != "only_cpu_and_memory" {
            return Err(unknown(key));
        }
        only = boolean(seen.once("only_cpu_and_memory")?, &value)?;
    }
    Ok(only)
}

pub(super) fn none(query: &str) -> Result<(), QueryError> {
    pairs(query)?.first().map_or(Ok(()), |(key, _)| Err(unknown(key)))
}

/// Parameters that have come.
#[derive(Default)]
struct Seen(Vec<&'static str>);

impl Seen {
    fn once(&mut self, key: &'static str) -> Result<&'static str, QueryError> {
        if self.0.contains(&key) {
            return Err(QueryError::Twice(key));
        }
        self.0.push(key);
        Ok(key)
    }
}

fn unknown(key: &str) -> QueryError {
    QueryError::Unknown(key.chars().take(40).collect())
}

fn text<'a>(key: &'static str, value: &'a [u8]) -> Result<&'a str, QueryError> {
    str::from_utf8(value).map_err(|_| QueryError::Value(key))
}

fn boolean(key: &'static str, value: &[u8]) -> Result<bool, QueryError> {
    match value {
        b"true" | b"1" => Ok(true),
        b"false" | b"0" => Ok(false),
        _ => Err(QueryError::Value(key)),
    }
}

/// A kubelet takes everything but `1` for no; what it would misread is refused.
fn switch(key: &'static str, value: &[u8]) -> Result<bool, QueryError> {
    match value {
        b"1" => Ok(true),
        b"0" => Ok(false),
        _ => Err(QueryError::Value(key)),
    }
}

/// A whole number that Go's `int64` holds, in its one decimal form.
fn number(key: &'static str, value: &[u8], least: u64) -> Result<u64, QueryError> {
    let text = text(key, value)?;
    let is_canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    let number: i64 = text.parse().ok().filter(|_| is_canonical).ok_or(QueryError::Value(key))?;
    u64::try_from(number).ok().filter(|number| *number >= least).ok_or(QueryError::Value(key))
}

fn time(key: &'static str, value: &[u8]) -> Result<Timestamp, QueryError> {
    let time: Timestamp = text(key, value)?.parse().map_err(|_| QueryError::Value(key))?;
    if time < Timestamp::UNIX_EPOCH { Err(QueryError::Value(key)) } else { Ok(time) }
}

fn stream(key: &'static str, value: &[u8]) -> Result<LogStream, QueryError> {
    match value {
        b"All" => Ok(LogStream::All),
        b"Stdout" => Ok(LogStream::Stdout),
        b"Stderr" => Ok(LogStream::Stderr),
        _ => Err(QueryError::Value(key)),
    }
}
