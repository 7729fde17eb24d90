"""Submits an execution, shows its output as it comes, and cancels it on Ctrl-C.

    pip install -r requirements.txt
    python client.py 127.0.0.1:50051 process '{"module": "progress.py", "args": ["10"]}'

There is no generated code: the messages are learnt from the server by reflection. `Flowgate` is all that another
program needs. Exits 0 if the execution succeeded, and 1 if it did not.
"""

import json
import sys
import time
import uuid

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "flowgate.v1.ExecutionService"


class Flowgate:
    """The rpcs of ExecutionService, with dictionaries in the shape of the contract's JSON."""

    def __init__(self, address):
        self.channel = grpc.insecure_channel(address)
        pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(self.channel))
        self.methods = pool.FindServiceByName(SERVICE).methods_by_name

    def call(self, rpc, request):
        return as_dict(self._rpc(self.channel.unary_unary, rpc)(self._message(rpc, request), timeout=30))

    def submit(self, provider, input, **fields):
        """Stores an execution. With a request_id, doing it again after a broken connection changes nothing."""
        request = {"provider": provider, "input": input, "request_id": str(uuid.uuid4()), **fields}
        while True:
            try:
                return self.call("SubmitExecution", request)["execution"]
            except grpc.RpcError as error:
                wait_if_unavailable(error)

    def cancel(self, id, reason=""):
        return self.call("CancelExecution", {"id": id, "reason": reason})["execution"]

    def watch(self, id, cursor=None):
        """Every change and piece of output once and in order, from the first, until the execution has ended.

        `cursor`, a dictionary, is kept up to date. Whoever stops in the middle goes on by handing it in again.
        """
        cursor = {"after_revision": "0"} if cursor is None else cursor
        while True:
            request = {"id": id, "include_output": True, **cursor}
            messages = self._rpc(self.channel.unary_stream, "WatchExecution")(self._message("WatchExecution", request))
            try:
                for message in map(as_dict, messages):
                    cursor.update(after_revision=message["revision"], store_epoch=message["store_epoch"])
                    yield message
                return
            except grpc.RpcError as error:
                wait_if_unavailable(error)
            finally:
                messages.cancel()

    def _rpc(self, kind, rpc):
        return kind(
            f"/{SERVICE}/{rpc}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=message_factory.GetMessageClass(self.methods[rpc].output_type).FromString,
        )

    def _message(self, rpc, request):
        return json_format.ParseDict(request, message_factory.GetMessageClass(self.methods[rpc].input_type)())


def wait_if_unavailable(error):
    """The server restarts, or another one takes over: worth trying again. Anything else is not."""
    if error.code() != grpc.StatusCode.UNAVAILABLE:
        raise error
    time.sleep(1)


def as_dict(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


def show(message):
    """Prints output as it is, and changes to stderr; returns the execution of a change."""
    if "output" in message:
        chunk = message["output"]
        stream = sys.stderr if chunk["stream"] == "OUTPUT_STREAM_STDERR" else sys.stdout
        print(chunk.get("text", ""), end="", file=stream, flush=True)
    execution = message.get("execution")
    if execution:
        reason = execution.get("wait_reason", {}).get("message", "")
        print(f"-- {execution['state']} {reason}".rstrip(), file=sys.stderr, flush=True)
    return execution


def main(address, provider, input):
    flowgate = Flowgate(address)
    execution = flowgate.submit(provider, json.loads(input), labels={"client": "python-example"})
    id, cursor = execution["id"], {"after_revision": "0"}
    print(f"-- {id}", file=sys.stderr, flush=True)
    while True:
        try:
            for message in flowgate.watch(id, cursor):
                execution = show(message) or execution
            break
        except KeyboardInterrupt:
            flowgate.cancel(id, "interrupted by the user")
    if "output" in execution:
        print(json.dumps(execution["output"], ensure_ascii=False))
    if "error" in execution:
        print(f"-- {execution['error'].get('message', '')}", file=sys.stderr)
    return 0 if execution["state"] == "EXECUTION_STATE_SUCCEEDED" else 1


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: client.py HOST:PORT PROVIDER INPUT")
    try:
        sys.exit(main(*sys.argv[1:]))
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
