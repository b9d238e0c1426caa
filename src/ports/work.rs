//! Work that keeps a processor busy for longer than other tasks should wait.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{JoinHandle, spawn, spawn_blocking},
};

/// Does the work on a thread for such work. On a runtime of one thread, as tests and simulations have it, it is a task
/// like others: there what happens first must not depend on how fast threads are. Must be called within a runtime.
pub fn work<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => spawn(async move { work() }),
        _ => spawn_blocking(work),
    }
}
