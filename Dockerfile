# docker build -t anyhost .                         CPU
# docker build -t anyhost --build-arg TORCH=cu128 . NVIDIA card: run with --gpus all
FROM python:3.12-slim

# Which build of PyTorch: "cpu", or a CUDA version as PyTorch's index names it (cu126, cu128 …).
ARG TORCH=cpu

# g++ is for torch.compile; everything else comes with the wheels.
COPY packages.txt /tmp/packages.txt
RUN apt-get update \
    && xargs -a /tmp/packages.txt apt-get install -y --no-install-recommends \
    && rm -rf /var/lib/apt/lists/* /tmp/packages.txt

RUN useradd --create-home --uid 1000 anyhost
WORKDIR /home/anyhost/app

COPY requirements.txt .
RUN pip install --no-cache-dir torch --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && pip install --no-cache-dir -r requirements.txt

COPY --chown=anyhost app.py LICENSE README.md ./
COPY --chown=anyhost adapters adapters
COPY --chown=anyhost assets assets
COPY --chown=anyhost bench bench
COPY --chown=anyhost cluster cluster
COPY --chown=anyhost commands commands
COPY --chown=anyhost kit kit
COPY --chown=anyhost loader loader
COPY --chown=anyhost page page

USER anyhost
# Weights and what was learned of this machine: mount a volume here to keep them.
ENV ANYHOST_CACHE=/home/anyhost/cache
RUN mkdir -p /home/anyhost/cache
VOLUME /home/anyhost/cache

EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py", "serve", "--host-name", "0.0.0.0", "--port", "7860"]
