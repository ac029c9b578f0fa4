//! Upstreams on 127.0.0.1 that answer, forge, cut, fail and die.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::net::UdpSocket as PlainSocket;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use tokio::net::TcpListener;

use super::*;

const NAME: &[u8] = b"\x03wWw\x07example\x00";

fn question(token: u64, transport: DnsTransport, kind: u16) -> DnsQuestion {
    let header = [0u16, 0x0120, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
    let message = [&header[..], NAME, &kind.to_be_bytes(), &[0, 1]].concat();
    DnsQuestion { token, transport, message }
}

/// The answer to `query` with data of so many bytes.
fn answer(query: &[u8], data: usize) -> Vec<u8> {
    let mut message = query.to_vec();
    (message[2], message[3], message[7]) = (message[2] | 0x80, 0x80, 1);
    message.extend([0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60]);
    message.extend(u16::try_from(data).unwrap().to_be_bytes());
    message.extend(vec![0x5a; data]);
    message
}

/// Who asked, and what.
type Queries = Vec<(SocketAddr, Vec<u8>)>;

/// An upstream by UDP: `act` says which datagrams follow a query.
struct Fake {
    address: SocketAddr,
    queries: Arc<Mutex<Queries>>,
}

impl Fake {
    async fn new(act: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        Self::on(socket, act)
    }

    fn on(socket: UdpSocket, act: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let address = socket.local_addr().unwrap();
        let queries = Arc::new(Mutex::new(Vec::new()));
        let seen = queries.clone();
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                seen.lock().unwrap().push((from, buffer[..length].to_vec()));
                for reply in act(&buffer[..length]) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        Self { address, queries }
    }

    /// What members asked.
    fn asked(&self) -> Queries {
        let all = self.queries.lock().unwrap().clone();
        all.into_iter().filter(|(_, query)| !same_but_id(query, &PROBE)).collect()
    }

    /// How often it was asked our own question.
    fn probes(&self) -> usize {
        let asked = self.asked().len();
        self.queries.lock().unwrap().len() - asked
    }
}

/// A TCP server at `address` that answers with `data` bytes; counts its connections.
async fn tcp_server(address: SocketAddr, data: usize) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).await.unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let connections = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.fetch_add(1, SeqCst);
            let length = stream.read_u16().await.unwrap();
            let mut query = vec![0; length.into()];
            stream.read_exact(&mut query).await.unwrap();
            let reply = answer(&query, data);
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            // In two pieces, as networks do.
            stream.write_all(&reply[..10]).await.unwrap();
            sleep(Duration::from_millis(5)).await;
            stream.write_all(&reply[10..]).await.unwrap();
        }
    });
    count
}

fn upstreams(addresses: &[SocketAddr]) -> Arc<Upstreams> {
    Upstreams::new(UpstreamSettings {
        upstreams: addresses.to_vec(),
        patience: Duration::from_millis(200),
        deadline: Duration::from_millis(1_500),
        questions_max: 100,
    })
}

fn same_but_id(a: &[u8], b: &[u8]) -> bool {
    a[2..] == b[2..]
}

/// N4: each try has a port and an id of its own; N1, N3: what is asked and answered is not touched.
#[tokio::test]
async fn dns_n4_random_ports_and_ids() {
    let fake = Fake::new(|query| vec![answer(query, 100)]).await;
    let upstreams = upstreams(&[fake.address]);
    for token in 0..64 {
        let asked = question(token, DnsTransport::Udp, 16);
        let got = upstreams.resolve(asked.clone()).await;
        assert_eq!(got.token, token);
        assert!(same_but_id(&got.message.unwrap(), &answer(&asked.message, 100)));
    }
    let queries = fake.asked();
    assert!(queries.iter().all(|(_, query)| same_but_id(query, &question(0, DnsTransport::Udp, 16).message)));
    let ports: HashSet<_> = queries.iter().map(|(from, _)| from.port()).collect();
    let ids: HashSet<_> = queries.iter().map(|(_, query)| [query[0], query[1]]).collect();
    // 64 of some 28,000 ports and of 65,536 ids: a few may be the same, hardly more than 4.
    assert!(ports.len() >= 60 && ids.len() >= 60, "{} ports, {} ids", ports.len(), ids.len());
    let near = |a: u16, b: u16| a.abs_diff(b) < 16;
    let ports: Vec<_> = queries.iter().map(|(from, _)| from.port()).collect();
    assert!(ports.windows(2).filter(|pair| near(pair[0], pair[1])).count() < 8, "ports in a row: {ports:?}");
}

/// N4: all 65,536 ids from the right address and port, and from others, before the right answer: none of them counts,
/// and the answer comes by TCP.
#[tokio::test]
async fn dns_n4_forged_answers() {
    let stranger = Arc::new(PlainSocket::bind("127.0.0.1:0").unwrap());
    let fake = Fake::new(|query| {
        let id = u16::from_be_bytes([query[0], query[1]]);
        // A forger knows nothing about the id; where he begins is as good as anywhere, but not right at once.
        let forged = (0..=u16::MAX).map(|n| {
            let mut forged = answer(query, 4);
            dns::set_id(&mut forged, id.wrapping_add(0x8000).wrapping_add(n));
            *forged.last_mut().unwrap() = 0xbd;
            forged
        });
        forged.take(2_000).collect()
    })
    .await;
    let connections = tcp_server(fake.address, 4).await;
    let upstreams = upstreams(&[fake.address]);
    let asked = question(1, DnsTransport::Udp, 1);
    let resolving = tokio::spawn({
        let (upstreams, asked) = (upstreams.clone(), asked.clone());
        async move { upstreams.resolve(asked).await }
    });
    // From another address: the kernel does not even deliver it.
    for _ in 0..200 {
        for (from, query) in fake.asked() {
            stranger.send_to(&answer(&query, 4), from).unwrap();
        }
        if resolving.is_finished() {
            break;
        }
        sleep(Duration::from_millis(1)).await;
    }
    let got = resolving.await.unwrap().message.expect("by TCP");
    assert!(same_but_id(&got, &answer(&asked.message, 4)));
    assert_eq!((connections.load(SeqCst), upstreams.stats().forged), (1, u64::from(GUESSES_MAX)));
}

/// N4: the right id, but another question, other case, or no answer at all.
#[tokio::test]
async fn dns_n4_answers_to_other_questions() {
    let fake = Fake::new(|query| {
        let mut lower = answer(query, 4);
        lower[12..12 + NAME.len()].make_ascii_lowercase();
        let mut other_type = answer(query, 4);
        other_type[12 + NAME.len() + 1] ^= 1;
        vec![lower, other_type, query.to_vec(), answer(query, 4)]
    })
    .await;
    let upstreams = upstreams(&[fake.address]);
    let asked = question(1, DnsTransport::Udp, 1);
    let got = upstreams.resolve(asked.clone()).await.message.unwrap();
    assert!(same_but_id(&got, &answer(&asked.message, 4)));
    assert_eq!((upstreams.stats().forged, upstreams.stats().answered), (3, 1));
}

/// N2: what is cut stays cut by UDP; by TCP it is whole, up to 64 KiB.
#[tokio::test]
async fn dns_n2_long_answers() {
    let fake = Fake::new(|query| {
        let mut cut = answer(query, 0);
        cut[2] |= 2;
        vec![cut]
    })
    .await;
    let longest = 65_535 - answer(&question(0, DnsTransport::Tcp, 16).message, 0).len();
    let connections = tcp_server(fake.address, longest).await;
    let upstreams = upstreams(&[fake.address]);
    let cut = upstreams.resolve(question(1, DnsTransport::Udp, 16)).await.message.unwrap();
    assert!(Dns::new_checked(&cut).unwrap().is_truncated());
    assert_eq!(connections.load(SeqCst), 0);
    let asked = question(2, DnsTransport::Tcp, 16);
    let whole = upstreams.resolve(asked.clone()).await.message.unwrap();
    assert!(whole.len() == 65_535 && same_but_id(&whole, &answer(&asked.message, longest)));
}

/// N2: a datagram longer than 512 bytes, for those who said that they take it.
#[tokio::test]
async fn dns_n2_long_datagrams() {
    let fake = Fake::new(|query| vec![answer(query, 30_000)]).await;
    let got = upstreams(&[fake.address]).resolve(question(1, DnsTransport::Udp, 16)).await.message.unwrap();
    assert!(got.len() > 30_000);
}

/// N5: a silent upstream costs the first question a moment, and soon nothing; when it lives again it is used again.
#[tokio::test]
async fn dns_n5_failover() {
    let silent = Fake::new(|_| vec![]).await;
    let good = Fake::new(|query| vec![answer(query, 4)]).await;
    let upstreams = upstreams(&[silent.address, good.address]);
    for token in 0..u64::from(SILENCES_DEAD) {
        let begun = Instant::now();
        assert!(upstreams.resolve(question(token, DnsTransport::Udp, 1)).await.message.is_some());
        assert!((200..2_000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    }
    assert_eq!(upstreams.stats().dead, 1);
    let begun = Instant::now();
    for token in 0..50 {
        assert!(upstreams.resolve(question(token, DnsTransport::Udp, 1)).await.message.is_some());
    }
    // Waiting 50 times would take 10 s.
    assert!(begun.elapsed() < Duration::from_secs(2), "the dead one is not waited for");
    assert_eq!(silent.asked().len(), 3);
    assert!((1..=5).contains(&silent.probes()), "{} probes", silent.probes());
}

/// N5: nothing listens there: the kernel says so at once.
#[tokio::test]
async fn dns_n5_refused() {
    let gone = PlainSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = Fake::new(|query| vec![answer(query, 4)]).await;
    let patience = Duration::from_secs(3);
    let upstreams = Upstreams::new(UpstreamSettings {
        upstreams: vec![gone, good.address],
        patience,
        ..UpstreamSettings::default()
    });
    let begun = Instant::now();
    assert!(upstreams.resolve(question(1, DnsTransport::Udp, 1)).await.message.is_some());
    assert!(begun.elapsed() < patience / 2, "{:?}", begun.elapsed());
}

/// N5: with all upstreams dead there is no storm: most questions fail at once, some look whether one lives again; then
/// all are answered.
#[tokio::test]
async fn dns_n5_no_storm() {
    let living = Arc::new(AtomicUsize::new(0));
    let switch = living.clone();
    let fake = Fake::new(move |query| if switch.load(SeqCst) == 1 { vec![answer(query, 4)] } else { vec![] }).await;
    let upstreams = upstreams(&[fake.address]);
    let both = futures_of(&upstreams, 0..20).await;
    assert_eq!(both, 0);
    let (asked, probes) = (fake.asked().len(), fake.probes());
    assert!(asked <= 40 && probes <= 5, "two for each question, and ours: {asked}, {probes}");
    let tries = asked + probes;
    let begun = Instant::now();
    for round in 0..100 {
        futures_of(&upstreams, round * 10..round * 10 + 10).await;
        if begun.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    let looks = fake.asked().len() + fake.probes() - tries;
    assert!(looks <= 5, "{looks} looks in {:?}", begun.elapsed());
    living.store(1, SeqCst);
    let mut answered = 0;
    for token in 0..200 {
        answered = futures_of(&upstreams, token..token + 1).await;
        if answered == 1 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!((answered, upstreams.stats().dead), (1, 0));
    assert_eq!(futures_of(&upstreams, 0..50).await, 50);
}

/// How many of these questions, asked at once, are answered.
async fn futures_of(upstreams: &Arc<Upstreams>, tokens: std::ops::Range<u64>) -> usize {
    let mut all = JoinSet::new();
    for token in tokens {
        let upstreams = upstreams.clone();
        all.spawn(async move { upstreams.resolve(question(token, DnsTransport::Udp, 1)).await });
    }
    all.join_all().await.iter().filter(|answer| answer.message.is_some()).count()
}

/// N5: a member asks for names whose servers are silent: other names are answered all the same, also by an upstream that
/// does not answer our own question.
#[tokio::test]
async fn dns_n5_silent_names_of_one_member() {
    for answers_probes in [true, false] {
        let fake = Fake::new(move |query| match query[query.len() - 3] {
            99 => vec![],
            2 if !answers_probes => vec![],
            _ => vec![answer(query, 4)],
        })
        .await;
        let upstreams = upstreams(&[fake.address]);
        assert_eq!(futures_of(&upstreams, 0..1).await, 1);
        let of_attacker = upstreams.clone();
        let attacker = tokio::spawn(async move {
            let mut all = JoinSet::new();
            for token in 0..100 {
                let upstreams = of_attacker.clone();
                all.spawn(async move { upstreams.resolve(question(token, DnsTransport::Udp, 99)).await });
                sleep(Duration::from_millis(50)).await;
            }
        });
        sleep(Duration::from_millis(1_000)).await;
        let mut good = 0;
        for token in 1_000..1_030 {
            good += futures_of(&upstreams, token..token + 1).await;
            sleep(Duration::from_millis(100)).await;
        }
        attacker.abort();
        assert_eq!(good, 30, "questions of others that were answered; answers probes: {answers_probes}");
        assert!((1..=40).contains(&fake.probes()), "{} probes", fake.probes());
    }
}

/// N5: the preferred upstream is used again soon after it lives again, although the other one answers everything.
#[tokio::test]
async fn dns_n5_comes_back() {
    let living = Arc::new(AtomicUsize::new(0));
    let switch = living.clone();
    let fake = Fake::new(move |query| if switch.load(SeqCst) == 1 { vec![answer(query, 4)] } else { vec![] }).await;
    let good = Fake::new(|query| vec![answer(query, 4)]).await;
    let upstreams = upstreams(&[fake.address, good.address]);
    assert_eq!(futures_of(&upstreams, 0..5).await, 5);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(upstreams.stats().dead, 1);
    living.store(1, SeqCst);
    sleep(Duration::from_millis(3_000)).await;
    assert_eq!(upstreams.stats().dead, 0);
    let before = (fake.asked().len(), good.asked().len());
    assert_eq!(futures_of(&upstreams, 0..1).await, 1);
    assert_eq!((fake.asked().len(), good.asked().len()), (before.0 + 1, before.1));
}

/// N5: whoever probes a dead upstream ends with the hub.
#[tokio::test]
async fn dns_n5_probes_end() {
    let silent = Fake::new(|_| vec![]).await;
    let upstreams = upstreams(&[silent.address]);
    assert_eq!(futures_of(&upstreams, 0..3).await, 0);
    let weak = Arc::downgrade(&upstreams);
    drop(upstreams);
    sleep(Duration::from_millis(500)).await;
    let probes = silent.probes();
    assert!(weak.upgrade().is_none() && probes > 0);
    sleep(Duration::from_millis(2_500)).await;
    assert_eq!(silent.probes(), probes);
}

/// N5: who says that he failed is asked no more for this question, if there is another; his word is passed on else.
#[tokio::test]
async fn dns_n5_failing_upstreams() {
    let failing = |query: &[u8]| {
        let mut failure = query.to_vec();
        (failure[2], failure[3]) = (failure[2] | 0x80, 0x82);
        vec![failure]
    };
    let (bad, good) = (Fake::new(failing).await, Fake::new(|query| vec![answer(query, 4)]).await);
    let both = upstreams(&[bad.address, good.address]);
    let got = both.resolve(question(1, DnsTransport::Udp, 1)).await.message.unwrap();
    assert_eq!(Dns::new_checked(&got).unwrap().rcode(), 0);
    let only = upstreams(&[bad.address]);
    let got = only.resolve(question(1, DnsTransport::Udp, 1)).await.message.unwrap();
    assert_eq!((Dns::new_checked(&got).unwrap().rcode(), bad.asked().len()), (RCODE_SERVER_FAILURE, 2));
    assert_eq!(both.stats().dead + only.stats().dead, 0, "it lives");
}

/// A slow answer counts, even though the next upstream was asked meanwhile.
#[tokio::test]
async fn dns_n5_late_answers_count() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        socket.send_to(&answer(&buffer[..length], 4), from).await.unwrap();
    });
    let silent = Fake::new(|_| vec![]).await;
    let got = upstreams(&[address, silent.address]).resolve(question(1, DnsTransport::Udp, 1)).await;
    assert!(got.message.is_some() && silent.asked().len() == 1);
}

/// Broken TCP servers: closes at once, lies about the length, answers something else, never answers.
#[tokio::test]
async fn dns_n2_broken_tcp_servers() {
    for how in 0..4 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut query = vec![0; 2 + question(0, DnsTransport::Tcp, 1).message.len()];
                if how == 0 {
                    continue;
                }
                stream.read_exact(&mut query).await.unwrap();
                let mut reply = answer(&query[2..], 4);
                let announced = u16::try_from(reply.len()).unwrap() + if how == 1 { 1 } else { 0 };
                reply[0] ^= u8::from(how == 2);
                if how < 3 {
                    stream.write_u16(announced).await.unwrap();
                    stream.write_all(&reply).await.unwrap();
                } else {
                    sleep(Duration::from_secs(3)).await;
                }
            }
        });
        let begun = Instant::now();
        let got = upstreams(&[address]).resolve(question(1, DnsTransport::Tcp, 1)).await;
        assert!(got.message.is_none() && begun.elapsed() < Duration::from_secs(2), "case {how}");
    }
}

/// From the queue and back, in any order; more at a time than there is room for end at once.
#[tokio::test]
async fn dns_questions_come_back() {
    let fake = Fake::new(|query| vec![answer(query, 4)]).await;
    let (ask, questions) = tokio::sync::mpsc::unbounded_channel();
    let (tell, mut answers) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(run(upstreams(&[fake.address]), questions, move |answer| tell.send(answer).unwrap()));
    (0..50).for_each(|token| ask.send(question(token, DnsTransport::Udp, 1)).unwrap());
    let mut tokens = HashSet::new();
    for _ in 0..50 {
        let answer = answers.recv().await.unwrap();
        assert!(answer.message.is_some() && tokens.insert(answer.token));
    }
    drop(ask);
    running.await.unwrap();
    let silent = Fake::new(|_| vec![]).await;
    let begun = Instant::now();
    let upstreams = upstreams(&[silent.address]);
    assert_eq!(futures_of(&upstreams, 0..300).await, 0);
    assert!(silent.asked().len() <= 200, "two tries each for 100 at a time");
    assert!(upstreams.stats().failed == 300 && begun.elapsed() < Duration::from_secs(4));
    let nobody = super::tests::upstreams(&[]);
    assert_eq!(nobody.resolve(question(1, DnsTransport::Udp, 1)).await.message, None);
}

#[test]
fn servers_of_resolv_conf() {
    let text = "# by hand\nnameserver 192.0.2.1\n  nameserver\t2001:db8::1 \nsearch example\nnameserver\nnameserver x\nnameserver 127.0.0.53#x\n";
    let wanted: [SocketAddr; 2] = ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
    assert_eq!(name_servers(text), wanted);
    assert_eq!(name_servers(&"nameserver 192.0.2.1\n".repeat(50)).len(), SERVERS_MAX);
}
