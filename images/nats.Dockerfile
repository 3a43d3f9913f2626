# The broker in the version that the tests run.
ARG NATS_VERSION
FROM nats:${NATS_VERSION}-alpine AS server

FROM debian:bookworm-slim
COPY --from=server /usr/local/bin/nats-server /usr/local/bin/nats-server
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nats-server"]
