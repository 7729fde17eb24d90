"""A client that is traced with the OpenTelemetry SDK and submits one execution.

Its own span and that of the call go to the collector. Prints a JSON object: `id` and `trace_id` of the execution, and
`traceparent` of the answer's metadata.

    python traced_client.py 127.0.0.1:50051 http://127.0.0.1:4317 '{"provider": "sim", "input": {}}'
"""

import json
import sys

import grpc
from client_test import DEADLINE_SECONDS, Client, ReflectionV1, as_dict
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def main(address, collector, submission):
    provider = TracerProvider(resource=Resource.create({"service.name": "outside client"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=collector, insecure=True)))
    trace.set_tracer_provider(provider)
    with grpc.insecure_channel(address) as channel:
        # What is asked by reflection is not part of the trace.
        client = Client(channel, ReflectionV1(channel))
        method = client._method("ExecutionService", "SubmitExecution")
        message = client._message(method, submission)
        traced = intercept_channel(channel, client_interceptor(provider))
        submit = client._callable(traced.unary_unary, method)
        with trace.get_tracer("outside").start_as_current_span("nightly job"):
            reply, call = submit.with_call(message, timeout=DEADLINE_SECONDS)
    provider.shutdown()
    execution = as_dict(reply)["execution"]
    metadata = dict(call.initial_metadata())
    told = {"id": execution["id"], "trace_id": execution["trace_id"], "traceparent": metadata["traceparent"]}
    print(json.dumps(told))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: traced_client.py HOST:PORT COLLECTOR SUBMISSION")
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
