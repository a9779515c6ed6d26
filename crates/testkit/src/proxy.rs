//! TCP proxy between the daemon and a node that misbehaves on request, as networks do.
//!
//! The proxy runs on a thread of its own, so that its effect does not depend on a test's runtime.

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

/// Direction of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the daemon to the node.
    ToServer,
    /// From the node to the daemon.
    ToClient,
}

/// Proxy that forwards everything until ordered otherwise. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    port: Port,
    orders: watch::Sender<Orders>,
    shared: Arc<Shared>,
}

/// Orders of the proxy. The default is to forward.
#[derive(Clone, Debug, Default)]
struct Orders {
    /// Number of changes, so that a caller can wait until the last one applies.
    number: u64,
    /// Number of cuts. Connections accepted before the last one are closed.
    cuts: u64,
    refuse: bool,
    stall: [bool; 2],
    delay: [Duration; 2],
    bytes_per_s: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Number of the orders that apply.
    in_force: AtomicU64,
    /// Bytes that may pass before all connections are cut, by direction; `u64::MAX` is no limit.
    allowance: [AtomicU64; 2],
    passed: [AtomicU64; 2],
    accepted: AtomicU64,
}

impl Proxy {
    /// Starts a proxy to `server_port` on 127.0.0.1.
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

    /// Returns the proxy's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Closes all connections once. New ones are accepted.
    pub fn cut(&self) {
        self.change(|orders| orders.cuts += 1);
    }

    /// Closes all connections after this many more bytes in a direction, most likely within a message.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.shared.allowance[direction as usize].store(bytes, Ordering::SeqCst);
    }

    /// Closes all connections and refuses new ones, as a host without a listener does.
    pub fn refuse(&self) {
        self.change(|orders| {
            orders.refuse = true;
            orders.cuts += 1;
        });
    }

    /// Accepts connections and keeps them open, but forwards nothing: a dead network.
    pub fn stall(&self) {
        self.change(|orders| orders.stall = [true; 2]);
    }

    /// Forwards nothing in one direction, for example so that confirms never arrive.
    pub fn stall_only(&self, direction: Direction) {
        self.change(|orders| orders.stall[direction as usize] = true);
    }

    /// Delays every piece of data. Later pieces wait for it, so throughput falls, too.
    pub fn delay(&self, direction: Direction, time: Duration) {
        self.change(|orders| orders.delay[direction as usize] = time);
    }

    /// Limits each connection and direction to about this many bytes a second.
    pub fn throttle(&self, bytes_per_s: u64) {
        self.change(|orders| orders.bytes_per_s = Some(bytes_per_s));
    }

    /// Forwards everything again, including withheld data.
    pub fn resume(&self) {
        for allowance in &self.shared.allowance {
            allowance.store(u64::MAX, Ordering::SeqCst);
        }
        self.change(|orders| {
            *orders = Orders { number: orders.number, cuts: orders.cuts, ..Orders::default() }
        });
    }

    /// Returns the bytes forwarded since the start.
    pub fn passed(&self, direction: Direction) -> u64 {
        self.shared.passed[direction as usize].load(Ordering::SeqCst)
    }

    /// Returns the number of connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Applies a change, and returns when it holds for every later connection.
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
                // A cut after a number of bytes does not come through this loop.
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
    // If the node is down, the client sees its connection closed.
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
    /// Forwards until the reading side ends, and passes that end on.
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

    /// Returns how much of `wanted` may pass. If it is less, the limit is used up and removed.
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
