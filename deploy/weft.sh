#!/bin/sh
# The command `weft` in the image: the bundle on the image's own Node.
exec /opt/weft/bin/node --disable-warning=ExperimentalWarning /opt/weft/weft.mjs "$@"
