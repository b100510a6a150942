# The images of dynplane:
#
#   docker build --target dynplane   -t dynplane:0.1.0 .
#   docker build --target zmq-broker -t zmq-broker:0.1.0 .
#   docker build --target dynplane-static -t dynplane-static:0.1.0 .   # all but ZMQ
#
# The build uses the checkout itself, so that the binaries contain the version and
# commit from git; in a git worktree add --build-arg GOFLAGS=-buildvcs=false.

FROM golang:1.26.8-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends libzmq3-dev pkg-config \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
ARG GOFLAGS
ENV GOFLAGS="-trimpath ${GOFLAGS}"
RUN --mount=type=bind,target=. \
    --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=1 go build -ldflags='-s -w' -o /out/ ./cmd/dynplane ./cmd/zmq-broker \
 && CGO_ENABLED=0 go build -ldflags='-s -w' -o /out/static/ ./cmd/dynplane
# Everything in the images except the programs: the libraries that they are linked
# with, the loader among them, and the certificate authorities.
RUN mkdir /rootfs \
 && ldd /out/dynplane /out/zmq-broker | grep -o '/[^ :]*\.so[^ ]*' | sort -u \
    | xargs cp --parents --dereference --target-directory=/rootfs \
    /etc/ssl/certs/ca-certificates.crt

# No shell, no package manager, no login. The user is a number because the kubelet
# cannot verify that a user name is not root.
FROM scratch AS base
COPY --from=build /rootfs /
USER 65532:65532

FROM base AS dynplane
COPY --from=build /out/dynplane /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/dynplane"]

FROM scratch AS dynplane-static
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/static/dynplane /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/dynplane"]

FROM base AS zmq-broker
COPY --from=build /out/zmq-broker /usr/local/bin/
EXPOSE 5555 5556
ENTRYPOINT ["/usr/local/bin/zmq-broker"]
