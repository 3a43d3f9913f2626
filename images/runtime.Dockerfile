# Sidecar and gateway, one binary. Build from the repository's root: docker build -f images/runtime.Dockerfile .
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/source/target --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --profile dist --locked --package rhizon-runtime && cp target/dist/rhizon-runtime /rhizon-runtime

FROM debian:bookworm-slim
COPY --from=build /rhizon-runtime /usr/local/bin/rhizon-runtime
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/rhizon-runtime"]
