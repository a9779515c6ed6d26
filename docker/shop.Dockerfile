# An image of the sample services and outboxd, for docker/compose.shop.yaml. Build it from the repository's root:
#   docker build -f docker/shop.Dockerfile -t outboxd-shop .
FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY crates crates
COPY samples samples
COPY benches benches
COPY release release
COPY LICENSE-APACHE LICENSE-MIT ./
RUN release/build.sh

FROM debian:bookworm-slim
# The system's certificate authorities, for amqps:// and for sslmode=verify-full without sslrootcert.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/dist/release/outboxd /src/target/dist/release/order-service \
     /src/target/dist/release/customer-service /src/target/dist/release/order-history \
     /src/target/dist/release/api-gateway /usr/local/bin/
COPY --from=build /src/target/dist/release/THIRD-PARTY-NOTICES /src/target/dist/release/LICENSE-* /usr/share/doc/outboxd/
USER 65534:65534
CMD ["outboxd", "run"]
