//! Counts the proxy's allocations per proxied HTTP/1.1 request, by call site.
//!
//!     allocs [REQUESTS] [BODY_BYTES] [REPLY_BYTES]          default: 1000 1024 2
//!
//! The proxy runs in this process with one worker and one model; client and
//! upstream are threads of this process that allocate nothing. Counting starts
//! when connections are warm and ends when the last answer is read.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use radiant::config::{Command, Environment, load, parse_flags};
use radiant::run::{Hooks, Proxy};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const WARM_UP: usize = 200;
const LIMIT: Duration = Duration::from_secs(10);

/// Answers every request on every connection; allocates per connection only.
fn upstream(listener: TcpListener, reply: usize) {
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || answer_all(socket, reply));
        }
    });
}

fn answer_all(mut socket: TcpStream, reply: usize) {
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {reply}\r\n\r\n"
    )
    .into_bytes();
    answer.resize(answer.len() + reply, b'x');
    let _ = socket.set_nodelay(true);
    let mut buffer = vec![0; 2 << 20];
    loop {
        let (mut filled, mut whole) = (0, usize::MAX);
        while filled < whole {
            match socket.read(&mut buffer[filled..]) {
                Ok(0) | Err(_) => return,
                Ok(n) => filled += n,
            }
            if whole == usize::MAX
                && let Some(end) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n")
            {
                whole = end + 4 + content_length(&buffer[..end]);
            }
        }
        if socket.write_all(&answer).is_err() {
            return;
        }
    }
}

fn content_length(head: &[u8]) -> usize {
    let lines = head.split(|b| *b == b'\n');
    lines
        .filter_map(|line| {
            let (name, value) = line.split_at_checked("content-length:".len())?;
            let is_length = name.eq_ignore_ascii_case(b"content-length:");
            is_length.then(|| std::str::from_utf8(value.trim_ascii()).ok()?.parse().ok()).flatten()
        })
        .next()
        .unwrap_or(0)
}

/// One exchange; false if the answer is not a 200.
fn exchange(socket: &mut TcpStream, request: &[u8], buffer: &mut [u8]) -> std::io::Result<bool> {
    socket.write_all(request)?;
    let mut filled = 0;
    loop {
        match socket.read(&mut buffer[filled..])? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => filled += n,
        }
        if let Some(end) = memchr::memmem::find(&buffer[..filled], b"\r\n\r\n")
            && filled >= end + 4 + content_length(&buffer[..end])
        {
            return Ok(buffer.starts_with(b"HTTP/1.1 200"));
        }
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn start(directory: &Path, port: u16, upstream: u16) -> anyhow::Result<Proxy> {
    let (utility, admin) = (free_port()?, free_port()?);
    let file = directory.join("radiant.yaml");
    std::fs::write(
        &file,
        format!(
            "kind: Radiant\nmetadata: {{name: settings}}\nspec: {{listen: {{http: \
             \"127.0.0.1:{port}\", utility: \"127.0.0.1:{utility}\", admin: \
             \"127.0.0.1:{admin}\"}}}}\n---\nkind: Model\nmetadata: {{name: iris}}\nspec: \
             {{endpoints: [{{http: \"127.0.0.1:{upstream}\"}}]}}\n"
        ),
    )?;
    let arguments = ["radiant", "run", "-c", &file.display().to_string(), "--concurrency", "1"]
        .map(str::to_owned);
    let Command::Run(flags) = parse_flags(arguments).map_err(|e| anyhow::anyhow!("{e}"))? else {
        anyhow::bail!("not a run")
    };
    let settings = load(&flags, &Environment::from_process())?;
    Ok(Proxy::start(settings, Hooks::default())?)
}

fn connect(port: u16) -> anyhow::Result<TcpStream> {
    let started = Instant::now();
    loop {
        match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_read_timeout(Some(LIMIT))?;
                return Ok(socket);
            }
            Err(e) if started.elapsed() > LIMIT => return Err(e).context("the proxy"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|a| a.parse::<usize>());
    let requests = numbers.next().unwrap_or(Ok(1000))?;
    let body = numbers.next().unwrap_or(Ok(1024))?;
    let reply = numbers.next().unwrap_or(Ok(2))?;
    let directory = tempfile::tempdir()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (port, upstream_port) = (free_port()?, listener.local_addr()?.port());
    upstream(listener, reply);
    let _proxy = start(directory.path(), port, upstream_port)?;
    let mut request = format!(
        "POST /v2/models/iris/infer HTTP/1.1\r\nhost: seldon-mesh\r\nuser-agent: \
         allocs\r\ncontent-type: application/json\r\nseldon-model: iris\r\ncontent-length: \
         {body}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + body, b'x');
    let mut buffer = vec![0; reply + (64 << 10)];
    let mut socket = connect(port)?;
    for _ in 0..WARM_UP {
        anyhow::ensure!(exchange(&mut socket, &request, &mut buffer)?, "no 200 while warming up");
    }
    let file = directory.path().join("heap.json");
    let profiler = dhat::Profiler::builder().file_name(&file).trim_backtraces(None).build();
    let before = dhat::HeapStats::get();
    let mut all_good = true;
    for _ in 0..requests {
        all_good &= exchange(&mut socket, &request, &mut buffer)?;
    }
    let after = dhat::HeapStats::get();
    drop(profiler);
    anyhow::ensure!(all_good, "an answer was not a 200");
    let blocks = (after.total_blocks - before.total_blocks) as f64 / requests as f64;
    let bytes = (after.total_bytes - before.total_bytes) as f64 / requests as f64;
    println!(
        "{blocks:.3} allocations, {bytes:.0} bytes per request of {body} bytes with an answer of {reply}"
    );
    report(&file, requests)
}

/// The sites, most frequent first: where in the proxy, through which library.
fn report(file: &Path, requests: usize) -> anyhow::Result<()> {
    let heap: serde_json::Value = serde_json::from_slice(&std::fs::read(file)?)?;
    let frames = heap["ftbl"].as_array().context("a table of frames")?;
    let frame = |n: &serde_json::Value| {
        let text = n.as_u64().and_then(|n| frames.get(n as usize)).and_then(|f| f.as_str());
        text.and_then(|t| t.split_once(": ")).map_or("", |(_, frame)| frame).to_owned()
    };
    let mut sites: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for point in heap["pps"].as_array().context("points")? {
        let stack: Vec<String> = point["fs"].as_array().into_iter().flatten().map(frame).collect();
        let ours = stack.iter().position(|f| f.contains("radiant::")).unwrap_or(stack.len());
        let is_library = |f: &&String| {
            !["dhat", "backtrace", "alloc/src", "core/src", "__rust"].iter().any(|s| f.contains(s))
        };
        // What lies between the allocator and us, innermost first, then us.
        let mut frames: Vec<&str> =
            stack[..ours].iter().filter(is_library).map(String::as_str).collect();
        frames.drain(..frames.len().saturating_sub(4));
        frames.extend(stack[ours..].iter().take(2).map(String::as_str));
        let site = frames.join("\n          <- ");
        let entry = sites.entry(site).or_default();
        entry.0 += point["tbk"].as_u64().unwrap_or(0);
        entry.1 += point["tb"].as_u64().unwrap_or(0);
    }
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by_key(|(_, (blocks, _))| std::cmp::Reverse(*blocks));
    for (site, (blocks, bytes)) in sites {
        let per_request = blocks as f64 / requests as f64;
        println!("{per_request:7.3} ({:5} bytes each)  {site}", bytes / blocks.max(1));
    }
    Ok(())
}
