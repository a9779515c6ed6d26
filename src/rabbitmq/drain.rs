//! Taking from a `FuturesUnordered` everything that is ready, and knowing that it was everything.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{StreamExt, stream::FuturesUnordered};

/// Polls until no future that was woken is left unpolled, and returns what completed.
///
/// `FuturesUnordered` is also pending, having woken its own task, when it merely has polled as many futures as it
/// held. Only if it is pending and nobody was woken meanwhile is its queue empty.
pub(super) fn drain_ready<F: Future>(futures: &mut FuturesUnordered<F>, cx: &Context<'_>) -> Vec<F::Output> {
    let noting = Arc::new(NotingWaker { task: cx.waker().clone(), woken: AtomicBool::new(false) });
    let waker = Waker::from(noting.clone());
    let mut cx = Context::from_waker(&waker);
    let mut ready = Vec::new();
    loop {
        noting.woken.store(false, Ordering::SeqCst);
        match futures.poll_next_unpin(&mut cx) {
            Poll::Ready(Some(output)) => ready.push(output),
            Poll::Pending if noting.woken.load(Ordering::SeqCst) => {}
            Poll::Ready(None) | Poll::Pending => return ready,
        }
    }
}

/// Wakes the task, and remembers that it did.
struct NotingWaker {
    task: Waker,
    woken: AtomicBool,
}

impl Wake for NotingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::SeqCst);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::Pin};

    use super::*;

    /// Ready at its `polls`-th poll, and woken at once until then.
    fn ready_after(polls: u32) -> Pin<Box<dyn Future<Output = u32>>> {
        let mut left = polls;
        Box::pin(poll_fn(move |cx| {
            left -= 1;
            if left == 0 {
                return Poll::Ready(polls);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    #[test]
    fn nothing_ready_is_left_behind() {
        let mut futures: FuturesUnordered<_> = [3, 1, 2, 50].into_iter().map(ready_after).collect();
        futures.push(Box::pin(std::future::pending()));
        let mut ready = drain_ready(&mut futures, &Context::from_waker(Waker::noop()));
        ready.sort_unstable();
        assert_eq!(ready, [1, 2, 3, 50]);
        assert_eq!(futures.len(), 1);
    }

    #[test]
    fn a_later_completion_wakes_the_task() {
        struct Flag(AtomicBool);
        impl Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let flag = Arc::new(Flag(AtomicBool::new(false)));
        let waker = Waker::from(flag.clone());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut futures: FuturesUnordered<_> = std::iter::once(receiver).collect();
        assert!(drain_ready(&mut futures, &Context::from_waker(&waker)).is_empty());
        flag.0.store(false, Ordering::SeqCst);
        assert_eq!(sender.send(7), Ok(()));
        assert!(flag.0.load(Ordering::SeqCst), "not woken");
        assert_eq!(drain_ready(&mut futures, &Context::from_waker(&waker)), [Ok(7)]);
    }
}
