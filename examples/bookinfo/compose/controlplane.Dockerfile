# The control plane for docker-compose.yml, built from the root of the project.
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
USER 1000
EXPOSE 15010 15014
ENTRYPOINT ["pylot"]
