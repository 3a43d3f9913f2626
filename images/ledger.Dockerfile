# The example agent in Rust. Build from the repository's root: docker build -f images/ledger.Dockerfile .
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/source/target --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --profile dist --locked --package ledger && cp target/dist/ledger /ledger

FROM debian:bookworm-slim
COPY --from=build /ledger /usr/local/bin/ledger
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/ledger"]
