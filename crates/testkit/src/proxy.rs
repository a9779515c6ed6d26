//! A TCP proxy between the daemon and a node that misbehaves on request, as networks do.
//!
//! It runs on a thread of its own, so that what it does to connections does not depend on the runtime of a test.

use super::ports::Port;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// A way through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the daemon sends.
    ToServer,
    /// What the node answers.
    ToClient,
}

/// A proxy that forwards everything until it is told otherwise. Its connections close when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    orders: watch::Sender<Orders>,
    shared: Arc<Shared>,
}

/// What the proxy is told to do; `Default` is to forward.
#[derive(Clone, Debug, Default)]
struct Orders {
    /// Counts changes, so that a caller can wait until the last one counts.
    number: u64,
    /// Connections accepted before this many cuts are to be closed.
    cuts: u64,
    refuse: bool,
    stall: [bool; 2],
    delay: [Duration; 2],
    bytes_per_s: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The last orders that hold.
    in_force: AtomicU64,
    /// Bytes that may still pass before everything is cut, by direction; `u64::MAX` is no limit.
    allowance: [AtomicU64; 2],
    passed: [AtomicU64; 2],
    accepted: AtomicU64,
}

impl Proxy {
    /// A proxy to `server_port` on 127.0.0.1.
    pub fn start(server_port: u16) -> Self {
        let port = Port::reserve();
        let (orders, receiver) = watch::channel(Orders::default());
        let shared = Arc::new(Shared::default());
        for allowance in &shared.allowance {
            allowance.store(u64::MAX, Ordering::SeqCst);
        }
        let proxy = Self { port, orders, shared };
        let (number, shared, cutter) = (proxy.port(), proxy.shared.clone(), proxy.orders.clone());
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let server = SocketAddr::from((Ipv4Addr::LOCALHOST, server_port));
            runtime.block_on(serve(number, server, receiver, cutter, shared));
        });
        proxy.change(|_| ());
        proxy
    }

    /// The port on 127.0.0.1 to connect to.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Closes all connections, once. New ones are taken.
    pub fn cut(&self) {
        self.change(|orders| orders.cuts += 1);
    }

    /// Closes all connections as soon as that many more bytes have passed in that direction, in mid-message most likely.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.allowance[direction as usize].store(bytes, Ordering::SeqCst);
    }

    /// Closes all connections and refuses new ones, as a host does where nothing listens.
    pub fn refuse(&self) {
        self.change(|orders| {
            orders.refuse = true;
            orders.cuts += 1;
        });
    }

    /// Takes connections and keeps them open, but forwards nothing in either direction: a dead network.
    pub fn stall(&self) {
        self.change(|orders| orders.stall = [true; 2]);
    }

    /// Forwards nothing in one direction: confirms that never arrive, for instance.
    pub fn stall_only(&self, direction: Direction) {
        self.change(|orders| orders.stall[direction as usize] = true);
    }

    /// Holds every piece of data back that long. Later pieces wait for it, so throughput falls too.
    pub fn delay(&self, direction: Direction, time: Duration) {
        self.change(|orders| orders.delay[direction as usize] = time);
    }

    /// Lets about that many bytes a second pass, each connection and direction for itself.
    pub fn throttle(&self, bytes_per_s: u64) {
        self.change(|orders| orders.bytes_per_s = Some(bytes_per_s));
    }

    /// Forwards everything again; what was held back comes out.
    pub fn resume(&self) {
        for allowance in &self.shared.allowance {
            allowance.store(u64::MAX, Ordering::SeqCst);
        }
        self.change(|orders| {
            *orders = Orders { number: orders.number, cuts: orders.cuts, ..Orders::default() }
        });
    }

    /// How many bytes have passed since the start.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.passed[direction as usize].load(Ordering::SeqCst)
    }

    /// How many connections were taken since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Returns when the change holds for every connection that comes after.
    fn change(&self, change: impl FnOnce(&mut Orders)) {
        let mut number = 0;
        self.orders.send_modify(|orders| {
            change(orders);
            orders.number += 1;
            number = orders.number;
        });
        while self.shared.in_force.load(Ordering::SeqCst) < number {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.orders.send_modify(|orders| orders.number = u64::MAX);
    }
}

async fn serve(
    port: u16,
    server: SocketAddr,
    mut orders: watch::Receiver<Orders>,
    cutter: watch::Sender<Orders>,
    shared: Arc<Shared>,
) {
    let mut listener = None;
    loop {
        let now = orders.borrow_and_update().clone();
        if now.number == u64::MAX {
            return;
        }
        listener = match (now.refuse, listener) {
            (true, _) => None,
            (false, Some(listener)) => Some(listener),
            (false, None) => {
                Some(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is ours"))
            }
        };
        shared.in_force.store(now.number, Ordering::SeqCst);
        tokio::select! {
            _ = orders.changed() => {}
            Ok((client, _)) = accept(listener.as_ref()) => {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                // As of now: a cut after a number of bytes does not come through this loop.
                let cuts = orders.borrow().cuts;
                tokio::spawn(connect(client, server, cutter.subscribe(), cuts, cutter.clone(), shared.clone()));
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    mut orders: watch::Receiver<Orders>,
    cuts: u64,
    cutter: watch::Sender<Orders>,
    shared: Arc<Shared>,
) {
    // The node may be down: the client then sees its connection closed.
    let Ok(server) = TcpStream::connect(server).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let pump = |direction, from, to| Pump {
        direction,
        from,
        to,
        orders: cutter.subscribe(),
        cutter: cutter.clone(),
        shared: shared.clone(),
    };
    let forward = async {
        let up = pump(Direction::ToServer, from_client, to_server).run();
        let down = pump(Direction::ToClient, from_server, to_client).run();
        tokio::join!(up, down)
    };
    tokio::select! {
        _ = forward => {}
        _ = orders.wait_for(|orders| orders.cuts > cuts) => {}
    }
}

struct Pump {
    direction: Direction,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    orders: watch::Receiver<Orders>,
    cutter: watch::Sender<Orders>,
    shared: Arc<Shared>,
}

impl Pump {
    /// Forwards until the reading side ends, and hands that end on.
    async fn run(mut self) {
        let way = self.direction as usize;
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(read @ 1..) = self.from.read(&mut buffer).await {
            let mut wait = Duration::ZERO;
            {
                let orders = self.orders.borrow();
                wait += orders.delay[way];
                if let Some(bytes_per_s) = orders.bytes_per_s {
                    wait += Duration::from_secs_f64(read as f64 / bytes_per_s as f64);
                }
            }
            tokio::time::sleep(wait).await;
            if self.orders.wait_for(|orders| !orders.stall[way]).await.is_err() {
                return;
            }
            let may_pass = self.take_allowance(read as u64);
            if self.to.write_all(&buffer[..may_pass as usize]).await.is_err() {
                return;
            }
            self.shared.passed[way].fetch_add(may_pass, Ordering::SeqCst);
            if may_pass < read as u64 {
                self.cutter.send_modify(|orders| orders.cuts += 1);
                return;
            }
        }
        let _ = self.to.shutdown().await;
    }

    /// How much of `wanted` may pass. Where it is not all, the limit is spent and lifted.
    fn take_allowance(&self, wanted: u64) -> u64 {
        let allowance = &self.shared.allowance[self.direction as usize];
        let left = |allowed: u64| match allowed {
            u64::MAX => u64::MAX,
            allowed => allowed.checked_sub(wanted).unwrap_or(u64::MAX),
        };
        let update =
            allowance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |allowed| Some(left(allowed)));
        update.unwrap_or(u64::MAX).min(wanted)
    }
}
