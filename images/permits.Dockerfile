# The example agent in Python, standard library only. Build from the repository's root: docker build -f images/permits.Dockerfile .
FROM python:3.13-slim-bookworm
COPY examples/permits/agents/permits.py /app/permits.py
USER 65532:65532
ENTRYPOINT ["python3", "/app/permits.py"]
