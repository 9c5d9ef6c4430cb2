use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Caller, Quota, Standing};

/// Callers that are remembered before those whose window is over are looked for.
const REMEMBERED: usize = 10_000;

/// The calls that this process let through in the last window, by Redis's leave or without it.
#[derive(Default)]
pub(super) struct Local {
    callers: HashMap<Caller, Calls>,
    /// With so many callers the next sweep is due: twice as many as the last one left, so that a crowd costs no more
    /// a call than a few do.
    sweep_at: usize,
}

#[derive(Default)]
struct Calls {
    window: Duration,
    at: VecDeque<Instant>,
}

impl Calls {
    fn is_over(&self, now: Instant) -> bool {
        self.at.back().is_none_or(|last| now.duration_since(*last) >= self.window)
    }
}

impl Local {
    /// Counts a call, or answers after how long one will be let through.
    pub(super) fn take(&mut self, caller: Caller, quota: Quota, now: Instant) -> Standing {
        if self.callers.len() > self.sweep_at.max(REMEMBERED) {
            self.callers.retain(|_, calls| !calls.is_over(now));
            self.sweep_at = self.callers.len() * 2;
        }
        let calls = self.callers.entry(caller).or_default();
        calls.window = quota.window;
        while calls.at.front().is_some_and(|first| now.duration_since(*first) >= quota.window) {
            calls.at.pop_front();
        }
        let is_free = calls.at.len() < quota.limit;
        if is_free {
            calls.at.push_back(now);
        }
        let first = calls.at.front().map_or(Duration::ZERO, |first| now.duration_since(*first));
        let reset = quota.window.saturating_sub(first);
        let remaining = quota.limit.saturating_sub(calls.at.len());
        Standing { wait: (!is_free).then_some(reset), remaining, reset }
    }

    /// The call that was counted at `now` did not happen: Redis refused it.
    pub(super) fn give_back(&mut self, caller: Caller, now: Instant) {
        let Some(calls) = self.callers.get_mut(&caller) else { return };
        if let Some(position) = calls.at.iter().rposition(|call| *call == now) {
            calls.at.remove(position);
        }
        if calls.at.is_empty() {
            self.callers.remove(&caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Bucket, *};

    const QUOTA: Quota = Quota { limit: 5, window: Duration::from_secs(60) };

    fn caller(number: u32) -> Caller {
        let mut who = [0; 16];
        who[..4].copy_from_slice(&number.to_be_bytes());
        (Bucket::LoginAccount, who)
    }

    #[test]
    fn a_call_that_was_given_back_is_not_counted() {
        let (mut local, now) = (Local::default(), Instant::now());
        for _ in 0..=QUOTA.limit {
            assert_eq!(local.take(caller(0), QUOTA, now).wait, None);
            local.give_back(caller(0), now);
        }
        assert!(local.callers.is_empty(), "nobody is remembered for what was refused");
        for left in (0..QUOTA.limit).rev() {
            let standing = local.take(caller(0), QUOTA, now);
            assert_eq!((standing.wait, standing.remaining), (None, left));
        }
        assert_eq!(local.take(caller(0), QUOTA, now).wait, Some(QUOTA.window));
        assert_eq!(local.take(caller(0), QUOTA, now + QUOTA.window).wait, None, "the window has moved on");
    }

    #[test]
    fn a_crowd_is_forgotten_when_its_window_is_over() {
        let (mut local, now) = (Local::default(), Instant::now());
        for number in 0..25_000 {
            local.take(caller(number), QUOTA, now);
        }
        assert_eq!(local.callers.len(), 25_000, "everybody counts while the window lasts");
        for number in 25_000..50_002 {
            local.take(caller(number), QUOTA, now + QUOTA.window);
        }
        assert!(local.callers.len() <= 25_002, "{}", local.callers.len());
    }
}
