//! The mails that are kept: the newest ones, within a number and a size.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

use super::message::Message;

#[derive(Debug)]
pub(super) struct Store {
    keep: usize,
    keep_bytes: usize,
    kept: Mutex<Kept>,
    /// Counts changes, so that a reader can wait for the next one.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
}

impl Store {
    pub(super) fn new(keep: usize, keep_bytes: usize) -> Self {
        Self { keep, keep_bytes, kept: Mutex::default(), changes: watch::Sender::new(0) }
    }

    /// Adds the newest mail and forgets the oldest ones beyond the bounds.
    pub(super) fn add(&self, message: Message) {
        let mut kept = self.kept();
        kept.bytes += message.raw.len();
        kept.messages.push_back(Arc::new(message));
        while kept.messages.len() > 1 && (kept.messages.len() > self.keep || kept.bytes > self.keep_bytes) {
            if let Some(oldest) = kept.messages.pop_front() {
                kept.bytes -= oldest.raw.len();
            }
        }
        drop(kept);
        self.changed();
    }

    /// Oldest first.
    pub(super) fn messages(&self) -> Vec<Arc<Message>> {
        self.kept().messages.iter().cloned().collect()
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Arc<Message>> {
        self.kept().messages.iter().find(|message| message.id == id).cloned()
    }

    pub(super) fn latest(&self) -> Option<Arc<Message>> {
        self.kept().messages.back().cloned()
    }

    pub(super) fn clear(&self) {
        *self.kept() = Kept::default();
        self.changed();
    }

    /// Forgets the mails for which `keep` says no.
    pub(super) fn retain(&self, mut keep: impl FnMut(&Message) -> bool) {
        let mut kept = self.kept();
        kept.messages.retain(|message| keep(message));
        kept.bytes = kept.messages.iter().map(|message| message.raw.len()).sum();
        drop(kept);
        self.changed();
    }

    /// Tells readers that what they see of a mail has changed.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// A receiver that has not seen the present state yet.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        let mut changes = self.changes.subscribe();
        changes.mark_changed();
        changes
    }

    /// Waits until `wanted` says yes to what is kept.
    pub(super) async fn wait_for(
        &self,
        mut wanted: impl FnMut(&[Arc<Message>]) -> bool,
    ) -> Vec<Arc<Message>> {
        // Subscribed before the first look: a mail that comes in between is not missed.
        let mut changes = self.changes.subscribe();
        loop {
            let messages = self.messages();
            if wanted(&messages) {
                return messages;
            }
            if changes.changed().await.is_err() {
                // The sender lives in `self`, so it cannot be gone; never come back rather than spin.
                std::future::pending::<()>().await;
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Envelope, Message};
    use super::*;

    fn mail(subject: &str) -> Message {
        Message::parse(Envelope::default(), format!("Subject: {subject}\r\n\r\n1234567890\r\n").into_bytes())
    }

    fn subjects(store: &Store) -> Vec<String> {
        store.messages().iter().map(|message| message.subject.clone()).collect()
    }

    #[test]
    fn keeps_the_newest_by_number() {
        let store = Store::new(2, usize::MAX);
        for subject in ["a", "b", "c"] {
            store.add(mail(subject));
        }
        assert_eq!(subjects(&store), ["b", "c"]);
    }

    #[test]
    fn keeps_the_newest_by_size_and_always_the_last() {
        let size = mail("a").raw.len();
        let store = Store::new(100, 2 * size);
        for subject in ["a", "b", "c"] {
            store.add(mail(subject));
        }
        assert_eq!(subjects(&store), ["b", "c"]);

        let store = Store::new(100, 1);
        store.add(mail("a"));
        store.add(mail("b"));
        assert_eq!(subjects(&store), ["b"]);
    }
}
