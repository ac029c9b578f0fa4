//! The answering side.
//!
//! Bounded in every direction: clients at once, bytes of a question, time for a question to arrive, for
//! its answer to be found and to be taken. A client that breaks a bound loses its connection, nothing else.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{AdminHandler, Answer, REQUEST_BYTES_MAX, Request};

/// The socket, listening. Removed from the file system when dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl AdminSocket {
    /// Listens at `path`, mode 0600, in the place of a socket that a dead server left. To be called
    /// within a tokio runtime.
    ///
    /// # Errors
    /// `AddrInUse` when a server answers there; `AlreadyExists` when something else than a socket stands
    /// there; otherwise what the system says.
    pub fn bind(path: &Path) -> io::Result<Self> {
        clear(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM.cloexec().nonblocking(), None)?;
        // On Linux the file gets the socket's mode at `bind`: there is no moment at which others may connect.
        fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        let inode = path.symlink_metadata()?.ino();
        Ok(Self { listener, path: path.to_owned(), inode })
    }

    /// Answers with `handler` until dropped.
    pub async fn serve<H: AdminHandler>(self, handler: Arc<H>) {
        let room = Arc::new(Semaphore::new(CLIENTS_MAX));
        loop {
            let client = match self.listener.accept().await {
                Ok((client, _)) => client,
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    // Out of descriptors, most likely: trying at once would only burn the processor.
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            match Arc::clone(&room).try_acquire_owned() {
                Ok(place) => {
                    let handler = Arc::clone(&handler);
                    tokio::spawn(async move {
                        let _place = place;
                        // An error here is the client's doing, and it is the one who sees it.
                        let _ = converse(client, &*handler).await;
                    });
                }
                Err(_) => refuse(client),
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Only if it is still ours.
        if self.path.symlink_metadata().is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes room at `path` for a socket.
fn clear(path: &Path) -> io::Result<()> {
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something else than a socket stands there"));
    }
    match BlockingStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "a server answers there")),
    }
}

fn refuse(client: UnixStream) {
    let line = line(&Answer::error("too many clients of the control socket at once; try again"));
    // A fresh socket has room for a line; who does not read it sees the end.
    let _ = client.try_write(&line);
}

/// Questions and answers with one client, until it goes or breaks a bound.
async fn converse<H: AdminHandler>(client: UnixStream, handler: &H) -> io::Result<()> {
    let (reading, mut writing) = client.into_split();
    let mut reading = BufReader::new(reading);
    let mut question = Vec::new();
    loop {
        let (answer, more) = match next(&mut reading, &mut question).await? {
            Next::End => return Ok(()),
            Next::Question => (answer(&question, handler).await, true),
            Next::TooLong => {
                (Answer::error(format!("a question has at most {REQUEST_BYTES_MAX} bytes, line break included")), false)
            }
            Next::TooSlow => (Answer::error("the question did not arrive in time"), false),
        };
        timeout(DEADLINE, writing.write_all(&line(&answer))).await??;
        if !more {
            return Ok(());
        }
    }
}

enum Next {
    Question,
    End,
    TooLong,
    TooSlow,
}

/// Reads a line into `question`: any time up to [`IDLE`] for its first byte, then [`DEADLINE`] for all of it.
async fn next(reading: &mut (impl AsyncBufRead + Unpin), question: &mut Vec<u8>) -> io::Result<Next> {
    question.clear();
    let Ok(first) = timeout(IDLE, reading.fill_buf()).await else { return Ok(Next::End) };
    if first?.is_empty() {
        return Ok(Next::End);
    }
    timeout(DEADLINE, read_line(reading, question)).await.unwrap_or(Ok(Next::TooSlow))
}

async fn read_line(reading: &mut (impl AsyncBufRead + Unpin), question: &mut Vec<u8>) -> io::Result<Next> {
    loop {
        let bytes = reading.fill_buf().await?;
        if bytes.is_empty() {
            return Ok(Next::End);
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        if question.len() + taken > REQUEST_BYTES_MAX {
            return Ok(Next::TooLong);
        }
        question.extend_from_slice(&bytes[..taken]);
        reading.consume(taken);
        if end.is_some() {
            return Ok(Next::Question);
        }
    }
}

async fn answer<H: AdminHandler>(question: &[u8], handler: &H) -> Answer {
    let request = match serde_json::from_slice::<Request>(question) {
        Ok(request) => request,
        Err(error) => return Answer::error(format!("not a question: {error}")),
    };
    let answer = timeout(DEADLINE, handler.handle(request)).await;
    answer.unwrap_or_else(|_| Answer::error("the server is too busy to answer in time"))
}

fn line(answer: &Answer) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).expect("answers are plain data");
    line.push(b'\n');
    line
}

/// For a question to arrive, for its answer to be found, and for the answer to be taken: each.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// A client that asks nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// Operators and a few scripts.
const CLIENTS_MAX: usize = 16;
/// As many again may wait for the accept.
const BACKLOG: i32 = 16;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::super::client;
    use super::*;
    use std::io::{BufRead, BufReader as BlockingReader, Read, Write};

    struct Handler;

    impl AdminHandler for Handler {
        async fn handle(&self, request: Request) -> Answer {
            match request {
                Request::SessionKick { name } => Answer::Done { message: format!("kicked {name}") },
                Request::UsersReload {} => std::future::pending().await,
                _ => Answer::Status(Box::default()),
            }
        }
    }

    struct Running {
        _runtime: tokio::runtime::Runtime,
        dir: tempfile::TempDir,
    }

    impl Running {
        fn start() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let guard = runtime.enter();
            let socket = AdminSocket::bind(&dir.path().join("s")).unwrap();
            drop(guard);
            runtime.spawn(socket.serve(Arc::new(Handler)));
            Self { _runtime: runtime, dir }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("s")
        }

        fn connect(&self) -> BlockingStream {
            let stream = BlockingStream::connect(self.path()).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }
    }

    #[test]
    fn questions_are_answered_one_by_one() {
        let running = Running::start();
        assert_eq!(running.path().metadata().unwrap().mode() & 0o777, 0o600);
        let answer = client::ask(&running.path(), &Request::SessionKick { name: "SID-A-1".into() }).unwrap();
        assert_eq!(answer, Answer::Done { message: "kicked SID-A-1".into() });

        let mut stream = running.connect();
        let kick = |name: &str| format!("{{\"request\":\"session-kick\",\"name\":\"{name}\"}}\n");
        stream.write_all((kick("a") + &kick("b")).as_bytes()).unwrap();
        let lines: Vec<_> = BlockingReader::new(&stream).lines().take(2).map(Result::unwrap).collect();
        assert!(lines[0].contains("kicked a") && lines[1].contains("kicked b"), "{lines:?}");
    }

    #[test]
    fn hostile_questions_get_an_error_and_hurt_nobody() {
        let running = Running::start();
        for bad in ["\n", "{}\n", "GET / HTTP/1.1\n", "\u{0}\u{1b}[2J\n", "{\"request\":\"status\",\"a\":{\"b\":[[[[\n"]
        {
            let mut stream = running.connect();
            stream.write_all(bad.as_bytes()).unwrap();
            stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
            let lines: Vec<_> = BlockingReader::new(&stream).lines().take(2).map(Result::unwrap).collect();
            assert!(lines[0].starts_with(r#"{"answer":"error","message":"not a question: "#), "{bad:?}: {lines:?}");
            assert!(lines[1].starts_with(r#"{"answer":"status""#), "{bad:?}: {lines:?}");
        }
        let nested = format!("{}\n", "[".repeat(60_000));
        let mut stream = running.connect();
        stream.write_all(nested.as_bytes()).unwrap();
        let mut line = String::new();
        BlockingReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.contains("not a question"), "{line}");

        let mut stream = running.connect();
        // The server may stop reading before all of it is sent.
        let _ = stream.write_all(&vec![b'x'; 10 << 20]);
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(matches!(client::ask(&running.path(), &Request::Status {}), Ok(Answer::Status(_))));
    }

    #[test]
    fn slow_handlers_and_slow_clients_are_given_up() {
        let running = Running::start();
        let mut slow = running.connect();
        slow.write_all(b"{\"request\":").unwrap();
        let answer = client::ask(&running.path(), &Request::UsersReload {}).unwrap();
        assert_eq!(answer, Answer::error("the server is too busy to answer in time"));
        let mut text = String::new();
        slow.read_to_string(&mut text).unwrap();
        assert!(text.contains("did not arrive in time"), "{text}");
    }

    #[test]
    fn more_clients_than_places_are_told() {
        let running = Running::start();
        let held: Vec<_> = (0..CLIENTS_MAX)
            .map(|_| {
                let mut stream = running.connect();
                stream.write_all(b"{\"request\":\"status\"}\n").unwrap();
                let mut line = String::new();
                BlockingReader::new(&stream).read_line(&mut line).unwrap();
                stream
            })
            .collect();
        let mut text = String::new();
        running.connect().read_to_string(&mut text).unwrap();
        assert!(text.contains("too many clients"), "{text}");
        drop(held);
    }

    #[test]
    fn a_dead_servers_socket_is_replaced_a_live_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _guard = runtime.enter();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let live = AdminSocket::bind(&path).unwrap();
        assert_eq!(AdminSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(live);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert_eq!(AdminSocket::bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
        assert!(AdminSocket::bind(&dir.path().join("x".repeat(200))).is_err(), "longer than a socket address");
    }
}
