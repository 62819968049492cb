# The image of the node agent. Every program in it is compiled here from this tree (the loopback plugin: from its Go module);
# the last stage only copies, so that what is tested is what ships.
#   docker build -t weft .
# Behind a proxy with an authority of its own: bind-mount /etc/ssl/certs and pass --build-arg NODE_EXTRA_CA_CERTS=FILE.

FROM golang:1.26-bookworm AS loopback
RUN CGO_ENABLED=0 GOBIN=/out go install -trimpath -ldflags "-s -w" \
    github.com/containernetworking/plugins/plugins/main/loopback@v1.9.1

FROM node:24-bookworm-slim AS build
RUN apt-get update \
 && apt-get install -y -qq --no-install-recommends gcc libc6-dev musl-tools \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ARG NODE_EXTRA_CA_CERTS
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund --loglevel=error && npm cache clean --force
# Node in a layer of its own: an upgrade of the agent does not bring it anew.
RUN install -D -m 0755 node_modules/node/bin/node /out-node/bin/node
COPY cni-shim cni-shim
COPY agent/native agent/native
COPY agent/errors.ts agent/errors.ts
RUN node_modules/.bin/node cni-shim/build.ts /out/weft && node_modules/.bin/node agent/native/build.ts /out/build/weft.node
COPY agent agent
COPY ipam-peer ipam-peer
COPY deploy/bundle.ts deploy/weft.sh deploy/
RUN node_modules/.bin/node deploy/bundle.ts /out/weft.mjs \
 && install -D -m 0755 deploy/weft.sh /out/bin/weft

FROM debian:bookworm-slim
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="weft" \
      org.opencontainers.image.description="A Kubernetes pod network: one agent per node" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
RUN apt-get update \
 && apt-get install -y -qq --no-install-recommends libnftables1 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf /var/log/*
COPY --from=loopback /out/loopback /opt/weft/loopback
COPY --from=build /out-node /opt/weft
COPY --from=build /out /opt/weft
COPY LICENSE /opt/weft/LICENSE
ENV PATH=/opt/weft/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    NODE_ENV=production \
    UV_THREADPOOL_SIZE=16
ENTRYPOINT ["/opt/weft/bin/weft"]
CMD ["agent"]
