"""A worker: an endpoint, a model card, and publishers of three topics.

It publishes nothing by itself, apart from a forward pass metric of zeros each
second. {"publish": n} makes it publish n further events on each topic. It prints
"stopped" when its endpoint is served no more.
"""

import asyncio

from dynamo.llm import (
    FpmDirectPublisher,
    KvEventPublisher,
    ModelInput,
    ModelType,
    WorkerMetricsPublisher,
    WorkerType,
    register_model,
)
import peer


async def handle(request, context):
    yield {"echo": request}


async def main(rt):
    ep = peer.endpoint(rt)
    # A tensor model, since no file of it is needed.
    await register_model(
        ModelInput.Tensor,
        ModelType.TensorBased,
        ep,
        "interop",
        worker_type=WorkerType.Aggregated,
        kv_cache_block_size=4,
        tensor_model_config={"name": "interop", "inputs": [], "outputs": []},
    )
    kv = KvEventPublisher(ep, kv_block_size=4, enable_local_indexer=True)
    load = WorkerMetricsPublisher()
    await load.create_endpoint(ep)
    fpm = FpmDirectPublisher(ep, "w0", 1)

    async def serve():
        await ep.serve_endpoint(handle)
        peer.emit("stopped")

    peer.SERVING.append(asyncio.ensure_future(serve()))
    peer.emit("ready", worker_id=ep.connection_id())

    sent = 0
    async for command in peer.commands():
        for _ in range(command["publish"]):
            n = sent
            kv.publish_stored(
                [4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3],
                [4],
                [1000 + n],
                None if n == 0 else 999 + n,
            )
            load.publish(0, n)
            fpm.publish(
                dp_rank=0,
                scheduled_num_prefill_requests=n + 1,
                scheduled_sum_prefill_tokens=0,
                scheduled_sum_prefill_kv_tokens=0,
                scheduled_num_decode_requests=0,
                scheduled_sum_decode_kv_tokens=0,
                queued_num_prefill_requests=0,
                queued_sum_prefill_tokens=0,
                queued_num_decode_requests=0,
                queued_sum_decode_kv_tokens=0,
                wall_time_secs=0.5,
            )
            sent += 1
            await asyncio.sleep(command.get("every", 0.005))
        peer.emit("sent", total=sent)


peer.run(main)
