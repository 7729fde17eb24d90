"""A graph without a model: what it does, its input says in `mode`.

echo       (default) the result is "echo:" and the text
sleep      the same after `seconds` (30 by default)
fail       the node raises
interrupt  asks a human; resumed with X, the result is "answered:X"
tokens     writes the words of the text one by one, `seconds` (0.1 by default) apart, as custom stream events
           {"token": ...}; the result is as with echo

Each run adds a line to the file that FLOWGATE_TEST_RUNS names when it begins its work, so that a test can tell what
really ran. The node is run again from its start when an interrupted run is resumed, and then adds another line.
"""
import asyncio
import os
from typing import TypedDict

from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt


class State(TypedDict, total=False):
    text: str
    mode: str
    seconds: float
    result: str


def note(state: State, config: RunnableConfig) -> None:
    ids = config.get("configurable", {}), config.get("metadata", {})
    thread, run = (next((str(i[key]) for i in ids if i.get(key)), "-") for key in ("thread_id", "run_id"))
    line = f"{thread} {run} {state.get('text', '')}\n".encode()
    # One write to a file opened for appending: lines of runs side by side do not mix.
    file = os.open(os.environ["FLOWGATE_TEST_RUNS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, line)
    finally:
        os.close(file)


async def prepare(state: State) -> State:
    return {"mode": state.get("mode", "echo")}


async def work(state: State, config: RunnableConfig) -> State:
    await asyncio.to_thread(note, state, config)
    mode, text = state.get("mode"), str(state.get("text", ""))
    if mode == "fail":
        raise ValueError(f"workflow failed on purpose: {text}")
    if mode == "sleep":
        await asyncio.sleep(float(state.get("seconds", 30)))
    if mode == "interrupt":
        return {"result": f"answered:{interrupt({'question': text})}"}
    if mode == "tokens":
        write = get_stream_writer()
        for word in text.split():
            write({"token": word})
            await asyncio.sleep(float(state.get("seconds", 0.1)))
    return {"result": "echo:" + text}


builder = StateGraph(State)
builder.add_node("prepare", prepare)
builder.add_node("work", work)
builder.add_edge(START, "prepare")
builder.add_edge("prepare", "work")
builder.add_edge("work", END)
graph = builder.compile()
