//! Which process listens where.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use crate::args::{Components, Replicas};
use crate::error::{Error, Result};
use crate::settings::Settings;

/// More replicas would run into the ports of their neighbours (API 8001…, internal 9474…, 9484…, 9494…).
pub(crate) const MOST_REPLICAS: u16 = 11;
/// Beyond it the highest port, 9503, would leave the range of ports.
pub(crate) const HIGHEST_OFFSET: u16 = u16::MAX - 9_503;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// One of our three kinds of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Api,
    Worker,
    Scheduler,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Api => "api",
            Kind::Worker => "worker",
            Kind::Scheduler => "scheduler",
        }
    }

    pub(crate) fn binary(self) -> &'static str {
        match self {
            Kind::Api => "tasktracker-api",
            Kind::Worker => "tasktracker-worker",
            Kind::Scheduler => "tasktracker-scheduler",
        }
    }

    /// The internal ports of the first process and of its first replica.
    fn internal(self) -> (u16, u16) {
        match self {
            Kind::Api => (9464, 9474),
            Kind::Worker => (9465, 9484),
            Kind::Scheduler => (9466, 9494),
        }
    }
}

/// A process that is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) kind: Kind,
    /// `worker`, then `worker-2` and so on.
    pub(crate) name: String,
    /// Where the API answers users.
    pub(crate) public: Option<SocketAddr>,
    /// Metrics and probes.
    pub(crate) internal: SocketAddr,
}

/// The SMTP sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) smtp: SocketAddr,
    pub(crate) page: SocketAddr,
}

/// What watches the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Monitor {
    pub(crate) prometheus: SocketAddr,
    pub(crate) alertmanager: SocketAddr,
    pub(crate) node_exporter: SocketAddr,
    pub(crate) loki: SocketAddr,
    pub(crate) alloy: SocketAddr,
}

/// Everything that listens on TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) processes: Vec<Process>,
    pub(crate) mail: Option<Mail>,
    pub(crate) monitor: Option<Monitor>,
    offset: u16,
}

/// The addresses before replicas and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Base {
    /// The first API; replicas take the next ports.
    api: SocketAddr,
    /// Whether the user chose it, so that no offset is added.
    api_is_given: bool,
    internal: IpAddr,
}

impl Base {
    /// `BIND` and the address of `INTERNAL_BIND`, whose port cannot hold for three processes.
    pub(crate) fn from(settings: Settings) -> Result<Self> {
        let given = |name: &str| match settings.given(name) {
            None => Ok(None),
            Some(text) => text.parse::<SocketAddr>().map(Some).map_err(|_| {
                Error::new(format!("{name} is {text:?}")).fix("write an address and a port: 127.0.0.1:8000")
            }),
        };
        let api = given("BIND")?;
        Ok(Base {
            api: api.unwrap_or(SocketAddr::new(LOOPBACK, 8000)),
            api_is_given: api.is_some(),
            internal: given("INTERNAL_BIND")?.map_or(LOOPBACK, |addr| addr.ip()),
        })
    }
}

/// Gives each process its ports. Counts and offset are within their limits, see [`crate::args`].
pub(crate) fn plan(base: Base, components: Components, replicas: Replicas, offset: u16) -> Plan {
    let counts = [
        (Kind::Api, components.api, replicas.api),
        (Kind::Worker, components.worker, replicas.worker),
        (Kind::Scheduler, components.scheduler, replicas.scheduler),
    ];
    let mut processes = Vec::new();
    for (kind, wanted, count) in counts {
        for number in 0..if wanted { count } else { 0 } {
            let (first, next) = kind.internal();
            let internal = if number == 0 { first } else { next + number - 1 };
            let name =
                if number == 0 { kind.name().to_owned() } else { format!("{}-{}", kind.name(), number + 1) };
            let public_offset = if base.api_is_given { 0 } else { offset };
            let public =
                SocketAddr::new(base.api.ip(), base.api.port().saturating_add(public_offset + number));
            processes.push(Process {
                kind,
                name,
                public: (kind == Kind::Api).then_some(public),
                internal: SocketAddr::new(base.internal, internal + offset),
            });
        }
    }
    let mail = components.mail.then(|| Mail {
        smtp: SocketAddr::new(LOOPBACK, 1025 + offset),
        page: SocketAddr::new(LOOPBACK, 8025 + offset),
    });
    Plan { processes, mail, monitor: None, offset }
}

impl Plan {
    /// With Prometheus and Alertmanager beside it, if they are wanted.
    pub(crate) fn monitored(mut self, wanted: bool) -> Self {
        self.monitor = wanted.then(|| Monitor {
            prometheus: SocketAddr::new(LOOPBACK, 9090 + self.offset),
            alertmanager: SocketAddr::new(LOOPBACK, 9093 + self.offset),
            node_exporter: SocketAddr::new(LOOPBACK, 9100 + self.offset),
            loki: SocketAddr::new(LOOPBACK, 3100 + self.offset),
            alloy: SocketAddr::new(LOOPBACK, 3101 + self.offset),
        });
        self
    }

    /// Each address with what wants it.
    fn addresses(&self) -> Vec<(SocketAddr, String)> {
        let mut all = Vec::new();
        for process in &self.processes {
            all.extend(process.public.map(|addr| (addr, process.name.clone())));
            all.push((process.internal, format!("the internal port of {}", process.name)));
        }
        if let Some(mail) = self.mail {
            all.push((mail.smtp, "the SMTP sink".to_owned()));
            all.push((mail.page, "the mail page".to_owned()));
        }
        if let Some(monitor) = self.monitor {
            all.push((monitor.prometheus, "Prometheus".to_owned()));
            all.push((monitor.alertmanager, "Alertmanager".to_owned()));
            all.push((monitor.node_exporter, "node_exporter".to_owned()));
            all.push((monitor.loki, "Loki".to_owned()));
            all.push((monitor.alloy, "Alloy".to_owned()));
        }
        all
    }

    /// Fails on the first address that cannot be bound.
    pub(crate) fn check_free(&self) -> Result<()> {
        for (addr, wanted_by) in self.addresses() {
            if let Err(error) = TcpListener::bind(addr) {
                let free = self.offset.saturating_add(100);
                return Err(Error::new(format!(
                    "port {} for {wanted_by} cannot be used: {error}",
                    addr.port()
                ))
                .fix(format!(
                    "end what uses it (`ss -ltnp | grep :{}`), or move all ports: \
                         cargo dev --data .data2 --port-offset {free}",
                    addr.port()
                )));
            }
        }
        Ok(())
    }
}

/// An offset under which every port of `plan` is free, for a stack beside others.
pub(crate) fn free_offset(plan: impl Fn(u16) -> Plan) -> Result<u16> {
    // Two runs at the same time begin at different places, and seldom meet.
    let first = u16::try_from(std::process::id() % 300).unwrap_or(0);
    (0..300)
        .map(|try_| 1_000 + (first + try_) % 300 * 60)
        .find(|offset| plan(*offset).check_free().is_ok())
        .ok_or_else(|| {
            Error::new("no range of free ports was found").fix("end some programs that listen on ports")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Base = Base { api: SocketAddr::new(LOOPBACK, 8000), api_is_given: false, internal: LOOPBACK };

    fn ports(plan: &Plan) -> Vec<(&str, Option<u16>, u16)> {
        plan.processes
            .iter()
            .map(|process| (&*process.name, process.public.map(|addr| addr.port()), process.internal.port()))
            .collect()
    }

    #[test]
    fn one_of_each_takes_the_documented_ports() {
        let plan = plan(BASE, Components::ALL, Replicas { api: 1, worker: 1, scheduler: 1 }, 0);
        assert_eq!(
            ports(&plan),
            [("api", Some(8000), 9464), ("worker", None, 9465), ("scheduler", None, 9466)]
        );
        let mail = plan.mail.unwrap();
        assert_eq!((mail.smtp.port(), mail.page.port()), (1025, 8025));
    }

    #[test]
    fn replicas_take_the_next_ports_and_the_offset_moves_all() {
        let plan = plan(BASE, Components::ALL, Replicas { api: 3, worker: 2, scheduler: 2 }, 100);
        assert_eq!(
            ports(&plan),
            [
                ("api", Some(8100), 9564),
                ("api-2", Some(8101), 9574),
                ("api-3", Some(8102), 9575),
                ("worker", None, 9565),
                ("worker-2", None, 9584),
                ("scheduler", None, 9566),
                ("scheduler-2", None, 9594),
            ]
        );
        let mail = plan.mail.unwrap();
        assert_eq!((mail.smtp.port(), mail.page.port()), (1125, 8125));
    }

    #[test]
    fn the_largest_stack_uses_each_port_once() {
        let most = Replicas { api: MOST_REPLICAS, worker: MOST_REPLICAS, scheduler: MOST_REPLICAS };
        let mut addresses: Vec<_> = plan(BASE, Components::ALL, most, HIGHEST_OFFSET)
            .monitored(true)
            .addresses()
            .into_iter()
            .map(|(addr, _)| addr)
            .collect();
        let all = addresses.len();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), all);
        assert_eq!(addresses.last().unwrap().port(), u16::MAX);
    }

    #[test]
    fn a_given_address_is_not_moved() {
        let base = Base { api: "0.0.0.0:80".parse().unwrap(), api_is_given: true, internal: LOOPBACK };
        let plan = plan(base, Components::ALL, Replicas { api: 2, worker: 1, scheduler: 1 }, 100);
        let public: Vec<_> = plan.processes.iter().filter_map(|process| process.public).collect();
        assert_eq!(public, ["0.0.0.0:80".parse().unwrap(), "0.0.0.0:81".parse().unwrap()]);
    }

    #[test]
    fn a_taken_port_is_named_with_who_wants_it() {
        let taken = TcpListener::bind((LOOPBACK, 0)).unwrap();
        let base = Base { api: taken.local_addr().unwrap(), api_is_given: true, internal: LOOPBACK };
        let only_api = Components { api: true, ..Components::NONE };
        let error = plan(base, only_api, Replicas { api: 1, worker: 1, scheduler: 1 }, 40_000)
            .check_free()
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("port {} for api", base.api.port())), "{text}");
        assert!(text.contains("--port-offset 40100"), "{text}");
    }
}
