//! What may go wrong, and when: a schedule drawn from a seed before anything starts. How a fault is brought about is
//! the business of [`run`](crate::run).

use std::{fmt, str::FromStr, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

/// Nothing happens so long after the load has begun.
const WARM_UP: Duration = Duration::from_secs(3);
/// Nothing begins so long before the load ends.
const REST: Duration = Duration::from_secs(5);

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// `kill -9` of a process, which is started again as a supervisor would.
    Kill,
    /// SIGTERM to a process; it is started again when it has ended.
    Term,
    /// SIGSTOP, later SIGCONT.
    Stop,
    /// SIGSTOP of a worker for longer than its claims live, then SIGCONT: it comes back to jobs that are another's.
    Freeze,
    /// Redis is killed and comes back empty.
    RedisRestart,
    /// `FLUSHALL`.
    RedisFlush,
    /// `SCRIPT FLUSH`.
    ScriptFlush,
    /// Redis takes connections and does not answer.
    RedisHole,
    /// Redis is at `maxmemory`.
    RedisFull,
    /// PostgreSQL is shut down as by a crash and comes back.
    PostgresRestart,
    /// PostgreSQL takes connections and does not answer.
    PostgresHole,
    /// The mail server hangs up.
    SmtpDown,
    /// The mail server takes its time over every line.
    SmtpSlow,
    /// The mail server says nothing.
    SmtpSilent,
    /// The receivers of webhooks answer with 503.
    ReceiverDown,
    /// They take connections and requests and never answer.
    ReceiverSilent,
    /// They answer with 200 and then a byte now and then.
    ReceiverDrips,
    /// They answer with 200 and more than anybody wants.
    ReceiverFloods,
    /// They send elsewhere.
    ReceiverRedirects,
}

use Fault::{
    Freeze, Kill, PostgresHole, PostgresRestart, ReceiverDown, ReceiverDrips, ReceiverFloods,
    ReceiverRedirects, ReceiverSilent, RedisFlush, RedisFull, RedisHole, RedisRestart, ScriptFlush, SmtpDown,
    SmtpSilent, SmtpSlow, Stop, Term,
};

impl Fault {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Kill,
        Term,
        Stop,
        Freeze,
        RedisRestart,
        RedisFlush,
        ScriptFlush,
        RedisHole,
        RedisFull,
        PostgresRestart,
        PostgresHole,
        SmtpDown,
        SmtpSlow,
        SmtpSilent,
        ReceiverDown,
        ReceiverSilent,
        ReceiverDrips,
        ReceiverFloods,
        ReceiverRedirects,
    ];

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kill => "kill",
            Term => "term",
            Stop => "stop",
            Freeze => "freeze",
            RedisRestart => "redis-restart",
            RedisFlush => "redis-flush",
            ScriptFlush => "script-flush",
            RedisHole => "redis-hole",
            RedisFull => "redis-full",
            PostgresRestart => "postgres-restart",
            PostgresHole => "postgres-hole",
            SmtpDown => "smtp-down",
            SmtpSlow => "smtp-slow",
            SmtpSilent => "smtp-silent",
            ReceiverDown => "receiver-down",
            ReceiverSilent => "receiver-silent",
            ReceiverDrips => "receiver-drips",
            ReceiverFloods => "receiver-floods",
            ReceiverRedirects => "receiver-redirects",
        }
    }

    /// Whether it is done to a process of ours, not to a server.
    pub fn is_of_process(self) -> bool {
        matches!(self, Kill | Term | Stop | Freeze)
    }

    /// What it is done to, if that is a server.
    pub fn server(self) -> &'static str {
        match self {
            Kill | Term | Stop | Freeze => "a process",
            RedisRestart | RedisFlush | ScriptFlush | RedisHole | RedisFull => "redis",
            PostgresRestart | PostgresHole => "postgres",
            SmtpDown | SmtpSlow | SmtpSilent => "smtp",
            ReceiverDown | ReceiverSilent | ReceiverDrips | ReceiverFloods | ReceiverRedirects => "receiver",
        }
    }

    /// How long it may last, in milliseconds. A killed process is down for so long.
    fn lasts(self) -> std::ops::Range<u64> {
        match self {
            Kill => 0..2_000,
            Term | RedisFlush | ScriptFlush => 0..1,
            Stop => 1_000..8_000,
            Freeze => 18_000..23_000,
            RedisRestart | PostgresRestart => 200..3_000,
            RedisHole | RedisFull => 2_000..15_000,
            PostgresHole => 1_000..8_000,
            SmtpDown | SmtpSlow | SmtpSilent => 3_000..15_000,
            ReceiverDown | ReceiverSilent | ReceiverDrips | ReceiverFloods | ReceiverRedirects => {
                3_000..15_000
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == text);
        found.ok_or_else(|| format!("choose from {}", Self::ALL.map(Self::name).join(", ")))
    }
}

/// A fault to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// When it begins, after the load has.
    pub at: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// What happens.
    pub fault: Fault,
    /// Which process it is done to, by its number among all; the next one that runs, if that one does not.
    pub target: usize,
}

/// The faults of a run that is `length` long, in the order of their times: every few seconds something is done to a
/// process, and one server after the other fails. The same arguments give the same schedule.
pub fn schedule(seed: u64, length: Duration, faults: &[Fault], processes: usize) -> Vec<Planned> {
    let mut chance = StdRng::seed_from_u64(seed);
    let (of_processes, of_servers): (Vec<Fault>, Vec<Fault>) =
        faults.iter().copied().partition(|fault| fault.is_of_process());
    let mut planned = Vec::new();
    for (faults, pause, waits) in [(of_processes, 1_500..4_500_u64, false), (of_servers, 1_500..6_000, true)]
    {
        let mut at = WARM_UP;
        while let Some(fault) = faults.choose(&mut chance).copied() {
            at += Duration::from_millis(chance.random_range(pause.clone()));
            if at + REST > length {
                break;
            }
            let lasts = Duration::from_millis(chance.random_range(fault.lasts()));
            planned.push(Planned { at, lasts, fault, target: chance.random_range(0..processes.max(1)) });
            if waits {
                at += lasts;
            }
        }
    }
    planned.sort_by_key(|planned| planned.at);
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(600);

    #[test]
    fn a_seed_always_brings_the_same() {
        let one = schedule(7, LENGTH, &Fault::ALL, 7);
        assert_eq!(one, schedule(7, LENGTH, &Fault::ALL, 7));
        assert_ne!(one, schedule(8, LENGTH, &Fault::ALL, 7));
        assert!(Fault::ALL.iter().all(|fault| one.iter().any(|planned| planned.fault == *fault)), "{one:?}");
    }

    #[test]
    fn one_server_fails_at_a_time() {
        let mut until = Duration::ZERO;
        for planned in
            schedule(7, LENGTH, &Fault::ALL, 7).iter().filter(|planned| !planned.fault.is_of_process())
        {
            assert!(planned.at > until, "{planned:?}");
            until = planned.at + planned.lasts;
        }
    }

    #[test]
    fn only_what_was_chosen_happens() {
        assert!(schedule(7, LENGTH, &[Fault::Stop], 7).iter().all(|planned| planned.fault == Fault::Stop));
        assert_eq!(schedule(7, LENGTH, &[], 7), []);
    }

    #[test]
    fn names_are_read() {
        assert!(Fault::ALL.iter().all(|fault| fault.name().parse() == Ok(*fault)));
        assert!("fire".parse::<Fault>().unwrap_err().starts_with("choose from kill, "));
    }
}
