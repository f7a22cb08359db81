# Airflow with squorflow in it: Airflow's own image, our wheel, our DAG files. Build: docker compose -f docker-compose.airflow.yml build
ARG AIRFLOW_VERSION=3.3.2
ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim-bookworm AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE requirements.lock ./
COPY include include
# The lock without its hashes is a constraints file.
RUN sed -e '/--hash/d' -e 's/ \\$//' requirements.lock > /constraints.txt \
    && pip wheel --no-cache-dir --no-deps --constraint /constraints.txt --wheel-dir /wheels .

FROM apache/airflow:${AIRFLOW_VERSION}-python${PYTHON_VERSION}
ARG AIRFLOW_VERSION
# Airflow's image says which versions its own packages have; what it lacks comes in the versions squorflow is tested with.
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,from=wheel,source=/constraints.txt,target=/constraints.txt \
    python -c "import importlib.metadata as m, re; there = {re.sub('[-_.]+', '-', d.name).lower() for d in m.distributions()}; \
lines = open('/constraints.txt').read().splitlines(); \
print('\n'.join(l for l in lines if re.sub('[-_.]+', '-', re.split('[=;\\[ ]', l)[0]).lower() not in there))" > /tmp/missing.txt \
    && pip install --no-cache-dir --constraint /tmp/missing.txt "apache-airflow==${AIRFLOW_VERSION}" \
        "$(echo /wheels/squorflow-*.whl)[celery,genai,s3,slack]" \
    && rm /tmp/missing.txt
COPY --chown=airflow:0 dags /opt/airflow/dags
# A volume that is mounted here begins with these rights.
USER root
RUN install -d -o airflow -g 0 -m 0775 /opt/airflow/logs /opt/squorflow
USER airflow
