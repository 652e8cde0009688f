# The gateway as an image: no root, nothing written outside /var/lib/loyalty and /tmp, no shell
# needed at run time. Pin the base when you build for production:
#   docker build --build-arg PYTHON_DIGEST=sha256:... --tag loyalty-gateway .
ARG PYTHON_TAG=3.11-slim-bookworm
ARG PYTHON_DIGEST=

FROM python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}} AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /source

# What builds our own two packages lives apart from what runs.
COPY requirements-build.lock ./
RUN python -m venv /opt/build && \
    /opt/build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock

# The dependencies change rarely, so they are a layer of their own.
COPY requirements.lock ./
RUN python -m venv --without-pip /opt/loyalty && \
    /opt/build/bin/pip --python /opt/loyalty/bin/python install \
    --require-hashes --only-binary :all: -r requirements.lock

COPY pyproject.toml README.md LICENSE ./
COPY generated ./generated
COPY server ./server
RUN /opt/build/bin/pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /wheels \
    ./generated . && \
    /opt/build/bin/pip --python /opt/loyalty/bin/python install --no-deps --no-index /wheels/*.whl && \
    /opt/loyalty/bin/python -m compileall -q /opt/loyalty/lib && \
    install -d -o 65532 -g 65532 -m 0750 /data


FROM python:${PYTHON_TAG}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}

LABEL org.opencontainers.image.title="Loyalty Gateway" \
      org.opencontainers.image.licenses="Apache-2.0"

# gRPC writes failed handshakes to the log otherwise; the log is ours.
ENV PATH=/opt/loyalty/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/loyalty \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GRPC_VERBOSITY=ERROR

COPY --from=build /opt/loyalty /opt/loyalty
COPY --from=build --chown=65532:65532 /data /var/lib/loyalty

USER 65532:65532
WORKDIR /var/lib/loyalty
EXPOSE 50051 50052 50053
STOPSIGNAL SIGTERM
# Health is asked over gRPC by the platform; the image brings no tool for it.
HEALTHCHECK NONE
ENTRYPOINT ["loyalty"]
CMD ["serve", "--config", "/etc/loyalty/loyalty.toml"]
