# `docker build -t reed . && docker run --rm reed make demo`, or make test.
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make git gcc libc6-dev chromium chromium-driver \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /reed
COPY . .
RUN make setup
CMD ["make", "demo"]
