"""Writes the flows of the tests as Langflow exports them. Run by langflow.sh with Langflow's own Python, because an
exported flow contains the source of every component in it, as it is in that version.

usage: langflow_flows.py FOLDER

echo  Chat Input -> Chat Output
step  Chat Input -> Step -> Chat Output, where Step does what the text says: `sleep:<seconds>`, `fail:<reason>`;
      in the end it says "step saw <text>"
"""
import json
import pathlib
import sys

from lfx.components.input_output import ChatInput, ChatOutput
from lfx.custom.eval import eval_custom_component_code
from lfx.graph import Graph

STEP = '''
import asyncio

from lfx.custom.custom_component.component import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class Step(Component):
    display_name = "Step"
    name = "Step"
    inputs = [MessageTextInput(name="input_value", display_name="Input")]
    outputs = [Output(display_name="Message", name="message", method="run_step")]

    async def run_step(self) -> Message:
        text = str(self.input_value)
        kind, _, rest = text.partition(":")
        if kind == "fail":
            raise ValueError(f"step failed on purpose: {rest}")
        if kind == "sleep":
            await asyncio.sleep(float(rest))
        return Message(text=f"step saw {text}")
'''


def edge(source, target, accepts, kind):
    name = source.split("-")[0]
    return {
        "source": source,
        "target": target,
        "data": {
            "sourceHandle": {"dataType": name, "id": source, "name": "message", "output_types": ["Message"]},
            "targetHandle": {"fieldName": "input_value", "id": target, "inputTypes": accepts, "type": kind},
        },
    }


def echo_flow():
    begin = ChatInput(_id="ChatInput-1")
    end = ChatOutput(_id="ChatOutput-1").set(input_value=begin.message_response)
    return Graph(begin, end).dump(name="echo flow", endpoint_name="echo")


def step_flow(accepted_by_output):
    step = eval_custom_component_code(STEP)(_id="Step-1", _code=STEP)
    graph = Graph()
    for part in (ChatInput(_id="ChatInput-1"), step, ChatOutput(_id="ChatOutput-1")):
        graph.add_component(part, part._id)
    flow = graph.dump(name="step flow", endpoint_name="step")
    # A component made from its source cannot be connected by its methods, so this is done here.
    flow["data"]["edges"] = [
        edge("ChatInput-1", "Step-1", ["Message"], "str"),
        edge("Step-1", "ChatOutput-1", accepted_by_output["inputTypes"], accepted_by_output["type"]),
    ]
    return flow


folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
echo = echo_flow()
step = step_flow(echo["data"]["edges"][0]["data"]["targetHandle"])
for name, flow in (("echo", echo), ("step", step)):
    (folder / f"{name}.json").write_text(json.dumps(flow))
