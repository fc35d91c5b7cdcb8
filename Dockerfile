# Two stages: the first installs the packages with pip; the second runs them without pip.

FROM python:3.13-slim-bookworm AS packages
COPY requirements.txt .
# Wheels only: the build compiles nothing, and executes no code from a package index.
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --only-binary :all: --require-hashes -r requirements.txt


FROM python:3.13-slim-bookworm
# The embedded Postgres needs a user with a name, and refuses to run as root. A new volume mounted on /data gets the owner
# of the folder.
RUN python -m pip uninstall --yes --quiet --root-user-action ignore pip \
 && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin app \
 && install --directory --owner app --group app --mode 0700 /data

COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY server server
COPY sql sql
RUN /opt/venv/bin/python -m compileall -q server

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LOG_FORMAT=json \
    DATA_DIR=/data
# No VOLUME: an anonymous volume would be lost with the container without notice. Without DATABASE_URL, mount your own:
# docker run -v ai-sdk-data:/data ...; a platform with an ephemeral disk (Koyeb) needs DATABASE_URL.

USER app
EXPOSE 3000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s CMD ["python", "-c", "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('PORT') or 3000), timeout=4); c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]
CMD ["python", "-m", "server", "serve"]
