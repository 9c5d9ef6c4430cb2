# syntax=docker/dockerfile:1.7
# One image with the three programs; the command says which of them runs. What is linked dynamically is glibc alone, so the
# image holds that, certificates and nothing to log in with.
FROM rust:1.95-slim-bookworm AS chef
WORKDIR /src
RUN cargo install --locked --version 0.1.73 cargo-chef && cargo install --locked --version 0.7.1 cargo-auditable

# What the dependencies are, without our sources: the next layer is made again only when this changes.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=plan /src/recipe.json .
RUN cargo chef cook --release --locked --recipe-path recipe.json --package api --package worker --package scheduler
COPY . .
# The list of dependencies goes into the binaries, where scanners and `cargo audit bin` find it.
RUN cargo auditable build --release --locked --package api --package worker --package scheduler \
    && install -D --target-directory=/out \
        target/release/tasktracker-api target/release/tasktracker-worker target/release/tasktracker-scheduler

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="TaskTracker" \
      org.opencontainers.image.description="A Task API whose reminders, daily summaries and webhooks can be relied on" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /out/ /usr/local/bin/
USER 65532:65532
ENV LOG_FORMAT=json
# SIGTERM drains; compose and orchestrators wait for 40 s.
STOPSIGNAL SIGTERM
EXPOSE 8000 9464 9465 9466
CMD ["tasktracker-api"]
