# Radiant in the place of seldon-envoy: same ports, same entry points, uid 1000.
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin radiant && strip target/release/radiant

FROM debian:bookworm-slim
# bash and sleep: Seldon's preStop hook writes to /dev/tcp and then sleeps, and
# /dev/tcp is bash's, so /bin/sh must be bash.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && ln -sf bash /bin/sh \
    && groupadd --gid 1000 radiant \
    && useradd --uid 1000 --gid 1000 --no-create-home --shell /bin/bash radiant
COPY --from=build /src/target/release/radiant /usr/local/bin/radiant
# Compose files and old entry points start `envoy`; under that name it is `run`.
RUN ln -s radiant /usr/local/bin/envoy \
    && printf '#!/bin/sh\nexec /usr/local/bin/radiant run "$@"\n' > /start-envoy.sh \
    && chmod 755 /start-envoy.sh
COPY config/envoy.yaml /etc/envoy.yaml
COPY config/envoy-tls.yaml /etc/envoy-tls.yaml
RUN sed 's/address: seldon-scheduler/address: scheduler/' /etc/envoy.yaml > /etc/envoy-compose.yaml \
    && sed 's/address: seldon-scheduler/address: 0.0.0.0/' /etc/envoy.yaml > /etc/envoy-local.yaml
USER 1000:1000
WORKDIR /tmp
EXPOSE 9000 9003
ENTRYPOINT ["/usr/local/bin/radiant"]
CMD ["run"]
