# The image of the node agent, for amd64 and arm64. Every program in it is compiled here from this tree (the loopback plugin: from
# its Go module), for the target by compilers that run on the builder: the last stage only copies, so that it needs no emulation,
# and has no shell and no package manager.
#   docker build -t weft .
#   docker buildx build --platform linux/amd64,linux/arm64 -t weft .
# Behind a proxy with an authority of its own: bind-mount /etc/ssl/certs and pass --build-arg NODE_EXTRA_CA_CERTS=FILE.
ARG LOOPBACK=v1.9.1

FROM --platform=$BUILDPLATFORM docker.io/library/golang:1.26-bookworm AS loopback
ARG TARGETARCH
ARG LOOPBACK
RUN CGO_ENABLED=0 GOARCH=${TARGETARCH} GOPATH=/go go install -trimpath -ldflags "-s -w" \
    github.com/containernetworking/plugins/plugins/main/loopback@${LOOPBACK} \
 && mkdir /out && cp "$(find /go/bin -name loopback -type f)" /out/loopback \
 && cp /go/pkg/mod/github.com/containernetworking/plugins@${LOOPBACK}/LICENSE /out/LICENSE

FROM --platform=$BUILDPLATFORM docker.io/library/node:24-bookworm-slim AS build
ARG TARGETARCH
COPY deploy/image deploy/image
# Compilers, and the target's shared libraries unpacked under /root-fs.
RUN sh deploy/image/prepare.sh "${TARGETARCH}"
WORKDIR /src
ARG NODE_EXTRA_CA_CERTS=
COPY package.json package-lock.json .npmrc ./
RUN npm ci --no-audit --no-fund --loglevel=error && npm cache clean --force
RUN sh /deploy/image/node.sh "${TARGETARCH}" /out-node
COPY cni-shim cni-shim
COPY agent/native agent/native
COPY agent/errors.ts agent/errors.ts
RUN . /deploy/image/target && CC="$SHIM_CC" node_modules/.bin/node cni-shim/build.ts /out/weft \
 && CC="$ADDON_CC" node_modules/.bin/node agent/native/build.ts /out/build/weft.node
COPY agent agent
COPY ipam-peer ipam-peer
COPY deploy/bundle.ts deploy/sbom.ts deploy/
ARG LOOPBACK
# Runtimes name the pods' namespaces under /var/run, which is a link everywhere else too.
RUN node_modules/.bin/node deploy/bundle.ts /out/weft.mjs \
 && mkdir -p /out/bin && ln -s ../weft.mjs /out/bin/weft \
 && node_modules/.bin/node deploy/sbom.ts /out/packages.json /root-fs.packages /out/sbom.spdx.json "${LOOPBACK}" \
 && rm /out/packages.json \
 && mkdir -p /root-fs/run && ln -sfn ../run /root-fs/var/run

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="weft" \
      org.opencontainers.image.description="A Kubernetes pod network: one agent per node" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# What changes least comes first: an upgrade of the agent brings its own layer only.
COPY --from=build /root-fs /
COPY --from=build /out-node /opt/weft
COPY --from=loopback /out/loopback /opt/weft/loopback
COPY --from=loopback /out/LICENSE /opt/weft/licenses/loopback/LICENSE
COPY --from=build /out /opt/weft
COPY LICENSE /opt/weft/LICENSE
ENV PATH=/opt/weft/bin \
    NODE_ENV=production \
    UV_THREADPOOL_SIZE=16
ENTRYPOINT ["/opt/weft/bin/weft"]
CMD ["agent"]
