"""A subscriber of the topic forward-pass-metrics, and a client of the endpoint.

It prints the payload of each event as it is, in hex, so that it may hold what no
worker sends. {"instances": true} makes it print the ids of the endpoint's workers.
"""

import threading

from dynamo.llm import FpmEventSubscriber
import peer


async def main(rt):
    ep = peer.endpoint(rt)
    sub = FpmEventSubscriber(ep)
    client = await ep.client()

    def receive():
        while (payload := sub.recv()) is not None:
            peer.emit("event", payload=payload.hex())
        peer.emit("end")

    threading.Thread(target=receive, daemon=True).start()
    peer.emit("ready")
    async for _ in peer.commands():
        peer.emit("instances", instances=client.instance_ids())


peer.run(main)
