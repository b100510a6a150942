"""The common part of the peers: settings, JSON lines on both pipes, the end.

A peer reads its settings from the environment, as any program of Dynamo does,
and from one JSON object in its first argument. It prints JSON objects, one a
line, and obeys those that it reads; the first word of each line is its kind. It
ends when its standard input does, so that none outlives the tests.
"""

import asyncio
import json
import os
import signal
import sys

from dynamo import _core
from dynamo.runtime import DistributedRuntime

VERSION = tuple(int(part) for part in _core.__version__.split(".")[:2])
ARGS = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}


def emit(kind, **fields):
    """Print one line. One write a line, since several threads print."""
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def runtime():
    """Open the runtime with the store and the transport that the environment names."""
    return DistributedRuntime(
        asyncio.get_running_loop(),
        os.environ["DYN_DISCOVERY_BACKEND"],
        "tcp",
        event_plane=os.environ.get("DYN_EVENT_PLANE"),
    )


def endpoint(rt):
    return rt.endpoint(ARGS.get("endpoint", "dynamo.backend.generate"))


async def commands():
    """Yield the objects on standard input, until it ends."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield json.loads(line)


SERVING = []  # futures of endpoints that are served


def run(main):
    """Run a peer.

    SIGTERM shuts the runtime down and waits for its endpoints, as Dynamo's own
    workers do; a Python program that does not just dies. The end of standard
    input ends the process as a crash would.
    """

    async def body():
        rt = runtime()

        async def stop(running):
            rt.shutdown()
            await asyncio.gather(*SERVING, return_exceptions=True)
            await asyncio.sleep(1)  # it disconnects from its store in the background
            running.cancel()

        loop, running = asyncio.get_running_loop(), asyncio.current_task()
        loop.add_signal_handler(signal.SIGTERM, lambda: loop.create_task(stop(running)))
        await main(rt)
        os._exit(0)

    try:
        asyncio.run(body())
    except asyncio.CancelledError:
        pass
