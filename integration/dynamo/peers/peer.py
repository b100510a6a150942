"""What the peers have in common: settings, JSON lines on both pipes, the end.

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


def say(kind, **fields):
    """Print one line. One write a line, since several threads print."""
    sys.stdout.write(json.dumps({"kind": kind, **fields}) + "\n")
    sys.stdout.flush()


def runtime():
    """Open the runtime with the store and the transport that the environment names."""
    return DistributedRuntime(
        asyncio.get_running_loop(),
        os.environ["DYN_DISCOVERY_BACKEND"],
        "tcp",
        event_plane=os.environ["DYN_EVENT_PLANE"],
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


def run(main):
    """Run a peer.

    SIGTERM shuts the runtime down, as Dynamo's own workers do; without that a
    Python program just dies. The end of standard input leaves at once: nothing
    is unregistered, and no thread of the runtime can hold the process.
    """

    async def body():
        rt = runtime()

        def stop():
            rt.shutdown()
            say("stopped")
            asyncio.get_running_loop().call_later(0.2, os._exit, 0)

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        await main(rt)

    asyncio.run(body())
    os._exit(0)
