// A @grpc/grpc-js client, with Flowgate's messages from the files in proto/ as Node's proto-loader reads them, and
// those of the health check from server reflection. Prints one line for each step and exits 1 at the first mismatch.
// Expects a simulated provider `sim` with a declared limit of 3.
//
//     node client_test.mjs 127.0.0.1:50051
//
// FLOWGATE_TEST_NODE_MODULES names the node_modules folder; by default target/test-tools/node/node_modules.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import path from "node:path";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const modules =
  process.env.FLOWGATE_TEST_NODE_MODULES ?? path.join(here, "../../../target/test-tools/node/node_modules");
const require = createRequire(path.join(modules, "package.json"));
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { FileDescriptorProto, FileDescriptorSet } = require("protobufjs/ext/descriptor");

const DEADLINE_MS = 20_000;
const PROTO = path.join(here, "../../../proto");
const SHAPE = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };

// --- learning the contract ---------------------------------------------------------------------------------------

/** Asks one question of server reflection. */
function reflect(address, question) {
  const definition = loader.loadSync(path.join(here, "reflection.proto"), SHAPE);
  const { ServerReflection } = grpc.loadPackageDefinition(definition).grpc.reflection.v1;
  const client = new ServerReflection(address, grpc.credentials.createInsecure());
  return new Promise((resolve, reject) => {
    const call = client.ServerReflectionInfo({ deadline: Date.now() + DEADLINE_MS });
    call.on("data", (answer) => {
      call.end();
      if (answer.error_response) reject(new Error(`reflection: ${answer.error_response.error_message}`));
      else resolve(answer);
    });
    call.on("error", reject);
    call.on("end", () => client.close());
    call.write(question);
  });
}

/** The names of the services the server has. */
async function services(address) {
  const answer = await reflect(address, { list_services: "" });
  return answer.list_services_response.service.map((service) => service.name);
}

/** The contract, from its files. */
function contract() {
  const files = ["execution_service", "provider_service", "system_service"];
  return loader.loadSync(files.map((name) => `flowgate/v1/${name}.proto`), { ...SHAPE, includeDirs: [PROTO] });
}

/** Definitions of the given services by reflection, with every file they import. */
async function definitions(address, names) {
  const files = new Map();
  const take = async (question) => {
    const answer = await reflect(address, question);
    for (const bytes of answer.file_descriptor_response.file_descriptor_proto) {
      const file = FileDescriptorProto.decode(bytes);
      if (files.has(file.name)) continue;
      files.set(file.name, file);
      for (const imported of file.dependency) {
        if (!files.has(imported)) await take({ file_by_filename: imported });
      }
    }
  };
  for (const name of names) await take({ file_containing_symbol: name });
  const set = FileDescriptorSet.create({ file: [...files.values()] });
  return loader.loadFileDescriptorSetFromBuffer(Buffer.from(FileDescriptorSet.encode(set).finish()), SHAPE);
}

// --- calling -----------------------------------------------------------------------------------------------------

/** The reply to a unary rpc. */
function call(client, rpc, request) {
  return new Promise((resolve, reject) => {
    client[rpc](request, { deadline: Date.now() + DEADLINE_MS }, (error, reply) =>
      error ? reject(error) : resolve(reply),
    );
  });
}

/** The messages of a stream, which must end OK; `onMessage` sees each as it comes. */
function collect(client, rpc, request, onMessage = () => {}) {
  return new Promise((resolve, reject) => {
    const messages = [];
    const stream = client[rpc](request, { deadline: Date.now() + DEADLINE_MS });
    stream.on("data", (message) => {
      messages.push(message);
      Promise.resolve(onMessage(message)).catch(reject);
    });
    stream.on("error", reject);
    stream.on("end", () => resolve(messages));
  });
}

const details = loader.loadSync(path.join(here, "rpc_status.proto"), SHAPE)["google.rpc.Decoders"];

/** The error a call ends with: its code and its google.rpc details by name. */
async function failure(promise) {
  const error = await promise.then(
    () => assert.fail("the rpc succeeded, an error was expected"),
    (reason) => reason,
  );
  const [trailer] = error.metadata?.get("grpc-status-details-bin") ?? [];
  assert.ok(trailer, `error without details: ${error.message}`);
  const status = details.DecodeStatus.responseDeserialize(trailer);
  assert.equal(status.code, error.code, "code in google.rpc.Status");
  const found = { code: error.code };
  for (const { type_url, value } of status.details) {
    const name = type_url.split(".").pop();
    found[name] = details[`Decode${name}`]?.responseDeserialize(value);
  }
  assert.equal(found.ErrorInfo?.domain, "flowgate", "ErrorInfo.domain");
  return found;
}

// --- google.protobuf.Struct, which proto-loader leaves as it is on the wire, with names of its own ------------------------

function toStruct(object) {
  return { fields: Object.fromEntries(Object.entries(object).map(([key, value]) => [key, toValue(value)])) };
}

function toValue(value) {
  if (value === null) return { nullValue: "NULL_VALUE" };
  if (typeof value === "number") return { numberValue: value };
  if (typeof value === "string") return { stringValue: value };
  if (typeof value === "boolean") return { boolValue: value };
  if (Array.isArray(value)) return { listValue: { values: value.map(toValue) } };
  return { structValue: toStruct(value) };
}

function fromValue(value) {
  if (value.kind === "listValue") return value.listValue.values.map(fromValue);
  if (value.kind === "structValue") {
    return Object.fromEntries(Object.entries(value.structValue.fields).map(([key, v]) => [key, fromValue(v)]));
  }
  return value.kind === "nullValue" ? null : value[value.kind];
}

// --- the steps ---------------------------------------------------------------------------------------------------

async function isHealthy({ health }) {
  for (const service of ["", "flowgate.v1.ExecutionService"]) {
    const reply = await call(health, "Check", { service });
    assert.equal(reply.status, "SERVING", `health of "${service}"`);
  }
}

async function submitsAndWatches({ executions }) {
  const request = {
    provider: "sim",
    input: toStruct({ duration_ms: 100, chunks: 3, output: { answer: 42, list: [true, null, "Grüße, 世界"] } }),
    request_id: `node-${randomUUID()}`,
    labels: { client: "node" },
  };
  const first = await call(executions, "SubmitExecution", request);
  assert.equal(first.replayed, false, "replayed at first");
  const second = await call(executions, "SubmitExecution", request);
  assert.equal(second.replayed, true, "replayed when sent again");
  assert.equal(second.execution.id, first.execution.id, "id when sent again");

  const watch = { id: first.execution.id, after_revision: 0, include_output: true };
  const messages = await collect(executions, "WatchExecution", watch);
  const revisions = messages.map((message) => message.revision);
  assert.deepEqual(revisions, [...new Set(revisions)].sort((a, b) => a - b), "revisions, in order and once");
  const states = messages.filter((m) => m.event === "execution").map((m) => m.execution.state);
  assert.equal(states[0], "EXECUTION_STATE_PENDING", "first state");
  assert.ok(states.includes("EXECUTION_STATE_RUNNING"), "RUNNING was seen");
  assert.equal(states.at(-1), "EXECUTION_STATE_SUCCEEDED", "last state");
  const text = messages.filter((m) => m.event === "output").map((m) => m.output.text);
  assert.equal(text.join(""), "chunk 0\nchunk 1\nchunk 2\n", "output chunks");
  const output = fromValue(messages.at(-1).execution.output);
  assert.deepEqual(output, { answer: 42, list: [true, null, "Grüße, 世界"] }, "output");
}

async function cancels({ executions }) {
  const request = { provider: "sim", input: toStruct({ duration_ms: 600_000 }) };
  const { id } = (await call(executions, "SubmitExecution", request)).execution;
  let asked = false;
  const messages = await collect(executions, "WatchExecution", { id }, async ({ execution }) => {
    if (execution?.state !== "EXECUTION_STATE_RUNNING" || asked) return;
    asked = true;
    await call(executions, "CancelExecution", { id, reason: "node changed its mind" });
  });
  const last = messages.findLast((message) => message.execution).execution;
  assert.equal(last.state, "EXECUTION_STATE_CANCELLED", "last state");
  assert.equal(last.cancel_reason, "node changed its mind", "cancel_reason");
  assert.equal(last.error.code, "ERROR_CODE_CANCELLED", "error.code");
}

async function setsLimits({ providers }) {
  const limits = async (change) => {
    const reply = await call(providers, "SetLimits", { limits: [change], reason: "node" });
    const [{ declared_limits, effective_limits }] = reply.providers;
    return [declared_limits.max_concurrent, effective_limits.max_concurrent];
  };
  assert.deepEqual(await limits({ provider: "sim", max_concurrent: 5 }), [3, 5], "limits");
  assert.deepEqual(await limits({ provider: "sim", reset: true }), [3, 3], "limits after reset");
}

async function readsErrors({ executions, providers }) {
  const fields = (error) => error.BadRequest.field_violations.map((violation) => violation.field);

  const bad = await failure(
    call(executions, "SubmitExecution", { provider: "sim", run_timeout: { seconds: -1, nanos: 0 } }),
  );
  assert.equal(bad.code, grpc.status.INVALID_ARGUMENT, "code");
  assert.equal(bad.ErrorInfo.reason, "INVALID_FIELD", "reason");
  assert.deepEqual(fields(bad), ["run_timeout"], "fields");

  const zero = await failure(call(providers, "SetLimits", { limits: [{ provider: "sim", max_concurrent: 0 }] }));
  assert.equal(zero.code, grpc.status.INVALID_ARGUMENT, "code");
  assert.deepEqual(fields(zero), ["limits[0].max_concurrent"], "fields");

  const unknown = await failure(call(executions, "SubmitExecution", { provider: "nobody" }));
  assert.equal(unknown.code, grpc.status.NOT_FOUND, "code");
  assert.equal(unknown.ErrorInfo.reason, "PROVIDER_NOT_FOUND", "reason");
  assert.equal(unknown.ResourceInfo.resource_name, "nobody", "resource_name");

  const id = randomUUID();
  const missing = await failure(collect(executions, "WatchExecution", { id }));
  assert.equal(missing.code, grpc.status.NOT_FOUND, "code of a stream");
  assert.equal(missing.ErrorInfo.reason, "EXECUTION_NOT_FOUND", "reason of a stream");
  assert.equal(missing.ResourceInfo.resource_name, id, "resource_name of a stream");
}

async function step(name, run) {
  try {
    const result = await run();
    console.log(`ok ${name}`);
    return result;
  } catch (error) {
    const where = error.stack?.split("\n").find((line) => line.includes("client_test.mjs"))?.trim() ?? "";
    console.error(`FAILED ${name}: ${error.message} ${where}`);
    process.exit(1);
  }
}

const [address] = process.argv.slice(2);
if (!address) {
  console.error("usage: client_test.mjs HOST:PORT");
  process.exit(2);
}
await step("list services by reflection", async () => {
  const listed = await services(address);
  const wanted = ["ExecutionService", "ProviderService", "SystemService"].map((name) => `flowgate.v1.${name}`);
  for (const name of [...wanted, "grpc.health.v1.Health"]) {
    assert.ok(listed.includes(name), `${name} is not among ${listed}`);
  }
});
const clients = await step("load the contract from its files, and more by reflection", async () => {
  const { flowgate } = grpc.loadPackageDefinition(contract());
  const reflected = await definitions(address, ["flowgate.v1.ExecutionService", "grpc.health.v1.Health"]);
  const rpcs = (service) => Object.keys(service).sort();
  assert.deepEqual(
    rpcs(reflected["flowgate.v1.ExecutionService"]),
    rpcs(flowgate.v1.ExecutionService.service),
    "rpcs by reflection and in the files",
  );
  const credentials = grpc.credentials.createInsecure();
  return {
    executions: new flowgate.v1.ExecutionService(address, credentials),
    providers: new flowgate.v1.ProviderService(address, credentials),
    health: new (grpc.loadPackageDefinition(reflected).grpc.health.v1.Health)(address, credentials),
  };
});
await step("health check", () => isHealthy(clients));
await step("submit, submit again, watch to the end", () => submitsAndWatches(clients));
await step("cancel", () => cancels(clients));
await step("set limits", () => setsLimits(clients));
await step("read error details", () => readsErrors(clients));
for (const client of Object.values(clients)) client.close();
