//! A kernel in plain memory, and the one that runs here.

mod frames;
mod hostile;
mod kernel;
mod model;
mod netns;
mod redirect;

/// A socket is opened by one thread and used by another.
#[test]
fn a_socket_may_change_its_thread() {
    fn is_send<T: Send>() {}
    is_send::<super::Xsk>();
}
