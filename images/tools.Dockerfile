# What tests and `helm test` run inside the cluster: Python for connections of all kinds, and the NATS command line.

FROM golang:1.26-bookworm AS build
ARG NATSCLI_VERSION
RUN CGO_ENABLED=0 go install github.com/nats-io/natscli/nats@v${NATSCLI_VERSION}

FROM python:3.13-slim-bookworm
COPY --from=build /go/bin/nats /usr/local/bin/nats
USER 65532:65532
ENV HOME=/tmp USER=nonroot
ENTRYPOINT ["python3"]
