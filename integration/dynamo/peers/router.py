"""A KV router. {"dump": true} makes it print the blocks in its index."""

import json

from dynamo.llm import KvRouter, KvRouterConfig
import peer


async def main(rt):
    router = KvRouter(peer.endpoint(rt), 4, KvRouterConfig())
    peer.emit("ready")
    async for _ in peer.commands():
        peer.emit("dump", events=json.loads(await router.dump_events()))


peer.run(main)
