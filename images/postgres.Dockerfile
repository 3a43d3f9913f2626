# A PostgreSQL for the demo and the tests. Build from the repository's root: docker build -f images/postgres.Dockerfile .
FROM postgres:17-bookworm
RUN useradd --uid 65532 --home-dir /tmp nonroot
COPY images/postgres.sh /usr/local/bin/postgres.sh
USER 65532:65532
ENTRYPOINT ["sh", "/usr/local/bin/postgres.sh"]
