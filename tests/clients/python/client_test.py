"""A grpcio client that knows nothing of Flowgate but its address.

Stubs are built from server reflection, with no generated code, as any Python user can do. Prints one line for each
step and exits 1 at the first mismatch. Expects a simulated provider `sim` with a declared limit of 3.

    python client_test.py 127.0.0.1:50051
"""

import sys
import uuid

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

DEADLINE_SECONDS = 20
SERVICES = {
    "flowgate.v1.ExecutionService",
    "flowgate.v1.ProviderService",
    "flowgate.v1.SystemService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


class Mismatch(Exception):
    """The server did something else than expected."""


def expect(what, actual, expected):
    if actual != expected:
        raise Mismatch(f"{what}: expected {expected!r}, got {actual!r}")


class ReflectionV1(ProtoReflectionDescriptorDatabase):
    """The same database over reflection v1, whose messages are those of v1alpha under another package name."""

    def __init__(self, channel):
        super().__init__(channel)
        self._stub = self
        self.ServerReflectionInfo = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )


class Client:
    """Calls any rpc with dictionaries, by what reflection says about it."""

    def __init__(self, channel, database):
        self.channel = channel
        self.pool = descriptor_pool.DescriptorPool(database)

    def call(self, service, rpc, request):
        """The reply to a unary rpc."""
        method = self._method(service, rpc)
        reply = self._callable(self.channel.unary_unary, method)(self._message(method, request), timeout=DEADLINE_SECONDS)
        return as_dict(reply)

    def stream(self, service, rpc, request):
        """The messages of a server-streaming rpc; ends when the server ends it with OK."""
        method = self._method(service, rpc)
        messages = self._callable(self.channel.unary_stream, method)(
            self._message(method, request), timeout=DEADLINE_SECONDS
        )
        return map(as_dict, messages)

    def _method(self, service, rpc):
        return self.pool.FindServiceByName(f"flowgate.v1.{service}").methods_by_name[rpc]

    def _callable(self, kind, method):
        reply = message_factory.GetMessageClass(method.output_type)
        return kind(
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )

    def _message(self, method, request):
        return json_format.ParseDict(request, message_factory.GetMessageClass(method.input_type)())


def as_dict(message):
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


class Failure:
    """An rpc error with its google.rpc details."""

    def __init__(self, error):
        self.code = error.code()
        status = rpc_status.from_call(error)
        if status is None:
            raise Mismatch(f"{error.code()} without google.rpc.Status details: {error.details()}")
        expect("code in google.rpc.Status", status.code, error.code().value[0])
        self.info = self._detail(status, error_details_pb2.ErrorInfo)
        self.bad_request = self._detail(status, error_details_pb2.BadRequest)
        self.resource = self._detail(status, error_details_pb2.ResourceInfo)
        expect("ErrorInfo.domain", self.info and self.info.domain, "flowgate")

    def fields(self):
        return [violation.field for violation in self.bad_request.field_violations]

    @staticmethod
    def _detail(status, kind):
        for detail in status.details:
            if detail.Is(kind.DESCRIPTOR):
                unpacked = kind()
                detail.Unpack(unpacked)
                return unpacked
        return None


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return Failure(error)
    raise Mismatch("the rpc succeeded, an error was expected")


def lists_services(channel):
    expect("services by reflection v1", SERVICES - set(ReflectionV1(channel).get_services()), set())
    alpha = ProtoReflectionDescriptorDatabase(channel)
    expect("services by reflection v1alpha", SERVICES - set(alpha.get_services()), set())


def speaks_v1alpha(channel):
    client = Client(channel, ProtoReflectionDescriptorDatabase(channel))
    status = client.call("SystemService", "GetStatus", {})
    expect("serving_state", status["serving_state"], "SERVING_STATE_SERVING")


def is_healthy(channel):
    health = health_pb2_grpc.HealthStub(channel)
    for service in ["", "flowgate.v1.ExecutionService"]:
        reply = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_SECONDS)
        expect(f"health of {service!r}", reply.status, health_pb2.HealthCheckResponse.SERVING)


def submits_and_watches(client):
    request = {
        "provider": "sim",
        "input": {"duration_ms": 100, "chunks": 3, "output": {"answer": 42, "text": "Grüße, 世界"}},
        "request_id": f"python-{uuid.uuid4()}",
        "labels": {"client": "python"},
        "priority": 7,
    }
    first = client.call("ExecutionService", "SubmitExecution", request)
    execution = first["execution"]
    expect("labels", execution["labels"], {"client": "python"})
    expect("priority", execution["priority"], 7)
    expect("replayed at first", first.get("replayed", False), False)
    second = client.call("ExecutionService", "SubmitExecution", request)
    expect("replayed when sent again", second["replayed"], True)
    expect("id when sent again", second["execution"]["id"], execution["id"])

    watch = {"id": execution["id"], "after_revision": "0", "include_output": True}
    messages = list(client.stream("ExecutionService", "WatchExecution", watch))
    revisions = [int(message["revision"]) for message in messages]
    expect("revisions, in order and once", revisions, sorted(set(revisions)))
    states = [message["execution"]["state"] for message in messages if "execution" in message]
    expect("first state", states[0], "EXECUTION_STATE_PENDING")
    expect("RUNNING was seen", "EXECUTION_STATE_RUNNING" in states, True)
    expect("last state", states[-1], "EXECUTION_STATE_SUCCEEDED")
    text = "".join(message["output"]["text"] for message in messages if "output" in message)
    expect("output chunks", text, "chunk 0\nchunk 1\nchunk 2\n")
    expect("output", messages[-1]["execution"]["output"], {"answer": 42, "text": "Grüße, 世界"})

    listed = client.call("ExecutionService", "ListExecutions", {"filter": {"labels": {"client": "python"}}})
    expect("listed by label", [e["id"] for e in listed["executions"]], [execution["id"]])


def cancels(client):
    submitted = client.call(
        "ExecutionService", "SubmitExecution", {"provider": "sim", "input": {"duration_ms": 600_000}}
    )
    id = submitted["execution"]["id"]
    states = []
    for message in client.stream("ExecutionService", "WatchExecution", {"id": id}):
        if "execution" not in message:
            continue
        states.append(message["execution"]["state"])
        if states[-1] == "EXECUTION_STATE_RUNNING" and not message["execution"].get("cancel_requested_time"):
            client.call("ExecutionService", "CancelExecution", {"id": id, "reason": "python changed its mind"})
    expect("last state", states[-1], "EXECUTION_STATE_CANCELLED")
    execution = client.call("ExecutionService", "GetExecution", {"id": id})["execution"]
    expect("cancel_reason", execution["cancel_reason"], "python changed its mind")
    expect("error.code", execution["error"]["code"], "ERROR_CODE_CANCELLED")


def sets_limits(client):
    def in_force(reply):
        provider = reply["providers"][0]
        return provider["declared_limits"]["max_concurrent"], provider["effective_limits"]["max_concurrent"]

    change = {"limits": [{"provider": "sim", "max_concurrent": 5}], "reason": "python wants more"}
    checked = client.call("ProviderService", "SetLimits", {**change, "validate_only": True})
    expect("limits as they would stand", in_force(checked), (3, 5))
    unchanged = client.call("ProviderService", "GetProvider", {"provider": "sim"})["provider"]
    expect("limit after validate_only", unchanged["effective_limits"]["max_concurrent"], 3)
    expect("limits", in_force(client.call("ProviderService", "SetLimits", change)), (3, 5))
    reset = {"limits": [{"provider": "sim", "reset": True}]}
    expect("limits after reset", in_force(client.call("ProviderService", "SetLimits", reset)), (3, 3))


def reads_errors(client):
    bad = failure(
        lambda: client.call(
            "ExecutionService",
            "SubmitExecution",
            {"provider": "sim", "run_timeout": "-1s", "labels": {"no spaces": "x"}},
        )
    )
    expect("code", bad.code, grpc.StatusCode.INVALID_ARGUMENT)
    expect("reason", bad.info.reason, "INVALID_FIELD")
    expect("run_timeout named", "run_timeout" in bad.fields(), True)

    unknown = failure(lambda: client.call("ExecutionService", "SubmitExecution", {"provider": "nobody"}))
    expect("code", unknown.code, grpc.StatusCode.NOT_FOUND)
    expect("reason", unknown.info.reason, "PROVIDER_NOT_FOUND")
    expect("resource_name", unknown.resource.resource_name, "nobody")
    # A client that has only reflection learns from it how to read the details too.
    client.pool.FindMessageTypeByName("google.rpc.ErrorInfo")

    id = str(uuid.uuid4())
    missing = failure(lambda: client.call("ExecutionService", "GetExecution", {"id": id}))
    expect("code", missing.code, grpc.StatusCode.NOT_FOUND)
    expect("reason", missing.info.reason, "EXECUTION_NOT_FOUND")
    expect("resource_name", missing.resource.resource_name, id)

    stream = failure(lambda: list(client.stream("ExecutionService", "WatchExecution", {"id": "not-an-id"})))
    expect("code of a stream", stream.code, grpc.StatusCode.INVALID_ARGUMENT)
    expect("fields of a stream", stream.fields(), ["id"])


def main(address):
    with grpc.insecure_channel(address) as channel:
        client = Client(channel, ReflectionV1(channel))
        steps = [
            ("health check", is_healthy, channel),
            ("list services by reflection v1 and v1alpha", lists_services, channel),
            ("call through reflection v1alpha", speaks_v1alpha, channel),
            ("submit, submit again, watch to the end, list", submits_and_watches, client),
            ("cancel", cancels, client),
            ("set limits", sets_limits, client),
            ("read error details", reads_errors, client),
        ]
        for name, step, argument in steps:
            try:
                step(argument)
            except Mismatch as mismatch:
                sys.exit(f"FAILED {name}: {mismatch}")
            except grpc.RpcError as error:
                sys.exit(f"FAILED {name}: {error.code()}: {error.details()}")
            except (KeyError, IndexError) as error:
                sys.exit(f"FAILED {name}: the reply lacks {error}")
            print(f"ok {name}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: client_test.py HOST:PORT")
    main(sys.argv[1])
