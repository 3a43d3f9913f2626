# The operator. Build from the repository's root: docker build -f images/operator.Dockerfile .
FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
RUN --mount=type=cache,target=/source/target --mount=type=cache,target=/usr/local/cargo/registry \
    cargo build --profile dist --locked --package rhizon-operator && cp target/dist/rhizon-operator /rhizon-operator

FROM debian:bookworm-slim
COPY --from=build /rhizon-operator /usr/local/bin/rhizon-operator
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/rhizon-operator"]
