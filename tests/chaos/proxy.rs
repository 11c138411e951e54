//! A TCP proxy on one road: from an instance's slot to a broker, or to the Nat.app stand-in. It can be cut, stalled or slow.
//! What was held when a stall ends is thrown away with its connection: a network that delivers a dead sender's bytes
//! minutes later is out of scope.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use crate::clock;

/// What a road is like. The worst of the faults that lie on it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    Open,
    Slow {
        delay: Duration,
    },
    /// Nothing comes through, and nobody is told.
    Stalled,
    /// Connections are reset, new ones too.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct Road {
    link: Link,
    /// A connection of an earlier epoch is to end.
    epoch: u64,
}

/// What happened on one connection, for the stand-in: whether an answer came through is more than it can see itself.
#[derive(Debug)]
pub struct Passage {
    /// When the first byte of the present request came from the instance.
    pub request_began: AtomicI64,
    /// Bytes of answers handed to the instance's socket.
    pub forwarded: AtomicU64,
    pub forwarded_at: AtomicI64,
    pub closed: AtomicBool,
    pub changed: Notify,
    answering: AtomicBool,
}

/// Connections to the stand-in by the proxy's local port.
pub type Passages = Arc<Mutex<HashMap<u16, Arc<Passage>>>>;

pub struct Proxy {
    pub port: u16,
    target: Arc<OnceLock<SocketAddr>>,
    road: watch::Sender<Road>,
    faults: Mutex<Vec<(usize, Link)>>,
}

impl Proxy {
    /// Listens at once; connections are closed until `lead_to` was called.
    pub async fn listen(passages: Option<Passages>) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (road, seen) = watch::channel(Road { link: Link::Open, epoch: 0 });
        let target = Arc::new(OnceLock::new());
        let leads_to = Arc::clone(&target);
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let Some(target) = leads_to.get().copied() else { continue };
                tokio::spawn(connection(client, target, seen.clone(), passages.clone()));
            }
        });
        Ok(Proxy { port, target, road, faults: Mutex::default() })
    }

    pub fn lead_to(&self, target: SocketAddr) {
        let _ = self.target.set(target);
    }

    /// Fault number `id` lies on the road.
    pub fn apply(&self, id: usize, link: Link) {
        self.change(|faults| faults.push((id, link)));
    }

    pub fn lift(&self, id: usize) {
        self.change(|faults| faults.retain(|(of, _)| *of != id));
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<(usize, Link)>)) {
        let mut faults = self.faults.lock().expect("unpoisoned");
        edit(&mut faults);
        let link = faults.iter().map(|(_, link)| *link).max().unwrap_or(Link::Open);
        self.road.send_modify(|road| {
            let ends_connections = link == Link::Cut || (road.link == Link::Stalled && link != Link::Stalled);
            road.epoch += u64::from(ends_connections);
            road.link = link;
        });
    }
}

async fn connection(
    mut client: TcpStream,
    target: SocketAddr,
    mut road: watch::Receiver<Road>,
    passages: Option<Passages>,
) {
    let born = road.borrow_and_update().epoch;
    // A connection that begins in a stall hangs, and ends with it.
    while road.borrow_and_update().link == Link::Stalled {
        if road.changed().await.is_err() {
            return;
        }
    }
    let ended = road.borrow().epoch != born || road.borrow().link == Link::Cut;
    let server = if ended { None } else { TcpStream::connect(target).await.ok() };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let passage = passages.as_ref().and_then(|passages| enter(passages, &server));
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            end = pump(from_client, to_server, road.clone(), born, |bytes| there(&passage, bytes)) => end,
            end = pump(from_server, to_client, road.clone(), born, |bytes| back(&passage, bytes)) => end,
        }
    };
    if let End::Reset = end {
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    } else {
        let _ = (client.shutdown().await, server.shutdown().await);
    }
    if let Some(passage) = passage {
        passage.closed.store(true, Ordering::Release);
        passage.changed.notify_waiters();
    }
}

/// How one direction of a connection ended.
enum End {
    InOrder,
    Reset,
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut road: watch::Receiver<Road>,
    born: u64,
    mut forwarded: impl FnMut(Forwarding),
) -> End {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let now = *road.borrow_and_update();
        if now.epoch != born {
            return End::Reset;
        }
        let read = tokio::select! {
            biased;
            changed = road.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return End::Reset,
            },
            read = from.read(&mut buffer), if now.link != Link::Stalled => read,
        };
        let bytes = match read {
            Ok(0) => return End::InOrder,
            Ok(bytes) => bytes,
            Err(_) => return End::Reset,
        };
        forwarded(Forwarding::Began);
        if let Link::Slow { delay } = now.link {
            tokio::time::sleep(delay).await;
        }
        let write = async {
            open_again(&mut road.clone(), born).await?;
            to.write_all(&buffer[..bytes]).await.ok()
        };
        let mut seen = road.clone();
        let written = tokio::select! { written = write => written, () = of_another_epoch(&mut seen, born) => None };
        if written.is_none() {
            return End::Reset;
        }
        forwarded(Forwarding::Done(bytes as u64));
    }
}

/// Waits while the road is stalled. `None`: the connection is to end.
async fn open_again(road: &mut watch::Receiver<Road>, born: u64) -> Option<()> {
    let now = *road.wait_for(|road| road.epoch != born || road.link < Link::Stalled).await.ok()?;
    (now.epoch == born).then_some(())
}

async fn of_another_epoch(road: &mut watch::Receiver<Road>, born: u64) {
    let _ = road.wait_for(|road| road.epoch != born).await;
}

enum Forwarding {
    Began,
    Done(u64),
}

/// Bytes of a request.
fn there(passage: &Option<Arc<Passage>>, step: Forwarding) {
    if let (Some(passage), Forwarding::Began) = (passage, step)
        && passage.answering.swap(false, Ordering::AcqRel)
    {
        passage.request_began.store(clock::now(), Ordering::Release);
    }
}

/// Bytes of an answer.
fn back(passage: &Option<Arc<Passage>>, step: Forwarding) {
    if let (Some(passage), Forwarding::Done(bytes)) = (passage, step) {
        passage.answering.store(true, Ordering::Release);
        passage.forwarded_at.store(clock::now(), Ordering::Release);
        passage.forwarded.fetch_add(bytes, Ordering::AcqRel);
        passage.changed.notify_waiters();
    }
}

fn enter(passages: &Passages, server: &TcpStream) -> Option<Arc<Passage>> {
    let port = server.local_addr().ok()?.port();
    let passage = Arc::new(Passage {
        request_began: AtomicI64::new(clock::now()),
        forwarded: AtomicU64::new(0),
        forwarded_at: AtomicI64::new(0),
        closed: AtomicBool::new(false),
        changed: Notify::new(),
        answering: AtomicBool::new(true),
    });
    passages.lock().expect("unpoisoned").insert(port, Arc::clone(&passage));
    Some(passage)
}
