"""test_router_mode.py - a llama-server that starts one server for each model, and few at once."""

import asyncio

import pytest

from llama_server import LlamaServer
from load import chat_body, fetch

MODELS = ("a", "b", "c")


@pytest.fixture
def engine():
    made = LlamaServer(router=MODELS, load_s=0.3, tokens_per_s=100)
    yield made
    made.close()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_models_run_at_once_than_the_router_keeps(make_cluster, engine, at_once, stream):
    """Directly, a model that is asked for while another one works throws that one out."""
    engine.max_instances = at_once
    cluster = make_cluster().start()
    cluster.start_node("n", engine=engine.url)

    async def crowd():
        return await asyncio.gather(*(
            fetch(cluster.api, "POST", "/v1/chat/completions",
                  chat_body(f"prompt {n}", 20, stream=stream, model=MODELS[n % 3]))
            for n in range(12)))

    answers = asyncio.run(crowd())
    assert [answer.status for answer in answers] == [200] * 12
    assert not any(b"error" in answer.body for answer in answers)
    assert cluster.node_state("n") == "UP"
