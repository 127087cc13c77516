# syntax=docker/dockerfile:1
# One image for every role. docker-compose.yml sets each role's command; the default is the API.

FROM python:3.13-slim-bookworm AS install
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN ["python", "-m", "venv", "/venv"]
COPY requirements.lock /venv/requirements.lock
RUN ["/venv/bin/pip", "install", "--require-hashes", "--only-binary", ":all:", "-r", "/venv/requirements.lock"]

FROM python:3.13-slim-bookworm
# Fixed ids, so that the files of a volume can be owned by number.
RUN groupadd --gid 10001 kasparro \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /srv/kasparro --shell /usr/sbin/nologin kasparro
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 LOG_FORMAT=json WEB_HOST=0.0.0.0 WEB_PORT=8000 CSV_DIR=/csv
WORKDIR /srv/kasparro
COPY --from=install /venv /venv
COPY alembic.ini settings.py ./
COPY sources ./sources
COPY store ./store
COPY tasks ./tasks
COPY app ./app
# Compile now, since the service cannot write here and would compile every module at every start.
RUN ["python", "-m", "compileall", "-q", "."]
USER 10001:10001
EXPOSE 8000
# The health check of the API. docker-compose.yml has those of the other roles.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client, os; api = http.client.HTTPConnection('127.0.0.1', int(os.environ['WEB_PORT']), timeout=4); api.request('GET', '/health/live'); raise SystemExit(api.getresponse().status != 200)"]
CMD ["gunicorn", "--config", "app/gunicorn.py"]
