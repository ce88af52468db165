# The image of every process: the worker by default, and the other lines of the Procfile when told so.
#
#   docker build --tag post-purchase-worker .
#   docker run --read-only --tmpfs /tmp … post-purchase-worker
#   docker run --read-only --tmpfs /tmp … post-purchase-worker post-purchase check
#   docker run --rm post-purchase-worker cat /opt/post-purchase/share/post-purchase/sbom.cdx.json
#
# Python packages have the versions of constraints.txt. To pin the system below them as well, give the base image by its
# digest: --build-arg PYTHON_IMAGE=python:3.13-slim@sha256:…

ARG PYTHON_IMAGE=python:3.13-slim

# ------------------------------------------------------------------------------------------------------------- build

FROM ${PYTHON_IMAGE} AS build

ENV PIP_CONSTRAINT=/build/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore

WORKDIR /build
COPY pyproject.toml constraints.txt ./

# What the project needs, before the project itself: a change of its code leaves this layer as it is. Without pip in it,
# the environment holds what runs and nothing that installs, and not the tests that some packages bring. Flower is part of
# the image, which is one for all processes.
RUN python -m venv --without-pip /opt/post-purchase \
 && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['flower'], sep='\n')" > requirements.txt \
 && pip --python /opt/post-purchase/bin/python install --requirement requirements.txt \
 && find /opt/post-purchase/lib -type d \( -name test -o -name tests \) -path '*/site-packages/*' -prune -exec rm -r {} + \
 && pip install hatchling cyclonedx-bom

COPY . .
RUN python -m hatchling build --target wheel \
 && pip --python /opt/post-purchase/bin/python install --no-deps dist/*.whl \
 && mkdir -p /opt/post-purchase/share/post-purchase \
 && python .ci/sbom.py /opt/post-purchase/bin/python > /opt/post-purchase/share/post-purchase/sbom.cdx.json

# --------------------------------------------------------------------------------------------------------------- run

FROM ${PYTHON_IMAGE}

# Everything is compiled already, and the root file system may be read-only.
ENV PATH=/opt/post-purchase/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# A number outside of what distributions give out, so that it is nobody on the host either. The folder is the only one
# that the user owns: for Flower's state, as a volume. Celery puts the working directory on the path: it is empty.
# Nothing is installed here any more, so pip goes.
RUN pip uninstall --yes --quiet pip \
 && useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin post-purchase \
 && install --directory --owner=post-purchase --group=post-purchase /var/lib/post-purchase

COPY --from=build /opt/post-purchase /opt/post-purchase

USER 10001:10001
WORKDIR /var/lib/post-purchase

# Celery's warm shutdown: nothing new is taken, and calls in flight end. Give it longer than a provider may take.
STOPSIGNAL SIGTERM

# Of the worker: it answers through the broker. Other processes bring their own, as in docker-compose.yml.
HEALTHCHECK --interval=30s --timeout=60s --start-period=60s --retries=3 \
    CMD celery --app worker inspect ping --timeout 10 --destination "celery@$(hostname)"

# No entry point stands before it: what is given instead is a line of the Procfile, and it gets the signals itself.
CMD ["celery", "--app", "worker", "worker", "--loglevel", "INFO"]
